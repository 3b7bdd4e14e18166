// A button for each image, which sends its key to the server.
export default function ({ data, parentElement, setTriggerValue }) {
  const list = parentElement.querySelector(".gallery");
  list.setAttribute("aria-label", data.title);
  list.style.setProperty("--side", `${data.side_px}px`);
  const root = parentElement.getRootNode();
  const focused = list.contains(root.activeElement) ? root.activeElement.dataset.key : undefined;
  list.classList.toggle("row", data.in_row);
  list.replaceChildren(
    ...data.tiles.map(({ key, title, note, image, chosen }) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.key = key;
      button.title = title;
      button.setAttribute("aria-pressed", String(chosen));
      button.setAttribute("aria-label", [title, note].filter(Boolean).join(": "));
      const picture = document.createElement(image ? "img" : "span");
      picture.className = "picture";
      if (image) Object.assign(picture, { src: image, alt: "" });
      const texts = [title, note].map((text) => {
        const line = document.createElement("span");
        line.textContent = text;
        return line;
      });
      button.append(picture, ...texts);
      button.onclick = () => setTriggerValue("picked", key);
      return button;
    }),
  );
  [...list.children].find((button) => button.dataset.key === focused)?.focus();
}
