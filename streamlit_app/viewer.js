// Zoom, pan, brightness, contrast and inversion happen in the browser: nothing is sent for them.
export default function ({ data, parentElement }) {
  const find = (selector) => parentElement.querySelector(selector);
  const stage = find(".stage"), pictures = find(".pictures"), film = find(".film"), layer = find(".layer");
  const inputs = [...parentElement.querySelectorAll("input")];
  const displayInversion = find("[name=invert]"); // a button; the pixels stay as they are
  const isDisplayInverted = () => displayInversion.getAttribute("aria-pressed") === "true";
  const value = (name) => Number(find(`[name=${name}]`).value) / 100;

  if (film.src !== data.film) film.src = data.film;
  film.alt = data.description;
  layer.hidden = !data.layer;
  find(".for-layer").hidden = !data.layer;
  if (data.layer && layer.src !== data.layer) layer.src = data.layer;

  // stage.corner: the upper left corner of what is seen, as a share of the film
  const draw = () => {
    const zoom = value("zoom"), corner = stage.corner;
    for (const axis of ["x", "y"]) corner[axis] = Math.min(Math.max(corner[axis], 0), 1 - 1 / zoom);
    pictures.style.transform = `scale(${zoom}) translate(${-100 * corner.x}%, ${-100 * corner.y}%)`;
    stage.classList.toggle("zoomed", zoom > 1);
    const inversion = isDisplayInverted() ? "invert(1)" : "";
    film.style.filter = `${inversion} brightness(${value("brightness")}) contrast(${value("contrast")})`;
    layer.style.opacity = value("opacity");
  };
  const zoomTo = (zoom, x, y) => {
    const before = stage.zoom ?? 1;
    // the point under the pointer, or the middle, stays where it is
    stage.corner.x += x / before - x / zoom;
    stage.corner.y += y / before - y / zoom;
    stage.zoom = zoom;
    draw();
  };

  for (const input of inputs) {
    input.oninput = input.name === "zoom" ? () => zoomTo(value("zoom"), 0.5, 0.5) : draw;
  }
  displayInversion.onclick = () => {
    displayInversion.setAttribute("aria-pressed", String(!isDisplayInverted()));
    draw();
  };
  const reset = () => {
    for (const input of inputs) input.value = input.defaultValue;
    displayInversion.setAttribute("aria-pressed", "false");
    stage.corner = { x: 0, y: 0 };
    stage.zoom = 1;
  };
  find("[name=reset]").onclick = () => {
    reset();
    draw();
  };
  stage.ondblclick = (event) => {
    const box = stage.getBoundingClientRect();
    const zoom = value("zoom") > 1 ? 1 : 3;
    find("[name=zoom]").value = 100 * zoom;
    zoomTo(zoom, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  stage.onpointerdown = (event) => {
    if (value("zoom") > 1) stage.setPointerCapture(event.pointerId);
  };
  stage.onpointermove = (event) => {
    if (!stage.hasPointerCapture(event.pointerId)) return;
    stage.corner.x -= event.movementX / stage.clientWidth / value("zoom");
    stage.corner.y -= event.movementY / stage.clientHeight / value("zoom");
    draw();
  };
  stage.ondragstart = (event) => event.preventDefault();
  if (stage.digest !== data.digest) reset(); // what was set for one film does not suit the next
  stage.digest = data.digest;
  draw();
}
