// Files that are dropped anywhere, pasted, or taken with a camera go to Streamlit's drop zone.
export default function ({ parentElement }) {
  const camera = parentElement.querySelector("input");
  const take = (files) => {
    const zone = document.querySelector("[data-testid=stFileUploader] input[type=file]");
    if (!zone || !files.length) return;
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(file);
    zone.files = transfer.files;
    zone.dispatchEvent(new Event("change", { bubbles: true }));
  };
  camera.onchange = () => {
    take([...camera.files]);
    camera.value = "";
  };

  const isOurs = (event) =>
    event.dataTransfer?.types.includes("Files") && !event.target.closest?.("[data-testid=stFileUploaderDropzone]");
  const root = document.documentElement;
  const listeners = new AbortController();
  const listen = (name, handle) => document.addEventListener(name, handle, { signal: listeners.signal });
  listen("dragover", (event) => {
    if (!isOurs(event)) return;
    event.preventDefault();
    root.style.boxShadow = "inset 0 0 0 4px #0f7b8a";
  });
  const unmark = () => { root.style.boxShadow = ""; };
  listen("dragleave", (event) => { if (!event.relatedTarget) unmark(); });
  listen("drop", (event) => {
    unmark();
    if (!isOurs(event)) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
  listen("paste", (event) => take([...(event.clipboardData?.files ?? [])]));

  parentElement.stopListening?.(); // of the run before
  parentElement.stopListening = () => listeners.abort();
  return () => listeners.abort();
}
