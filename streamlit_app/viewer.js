// Everything that only changes how the film looks happens in the browser. The server is asked for two
// things: the film in full resolution, once it is enlarged, and the score without what lies in a box.
const FULL_FROM = 1.5; // zoom from which 1024 px look blurred
const STEP = 0.05; // of the film, by which a key moves it, or a box
const MOVED_PX = 6; // a finger that went less far than this is at rest

export default function ({ data, parentElement, setStateValue }) {
  const find = (selector) => parentElement.querySelector(selector);
  const all = (selector) => [...parentElement.querySelectorAll(selector)];
  const viewer = find(".viewer"), stage = find(".stage"), box = find(".box");
  const inputs = all("input"), switches = all("[aria-pressed]");
  const button = (name) => find(`button[name=${name}]`);
  const isPressed = (name) => button(name).getAttribute("aria-pressed") === "true";
  const press = (name, pressed) => button(name).setAttribute("aria-pressed", String(pressed));
  const input = (name) => find(`input[name=${name}]`);
  const value = (name) => Number(input(name).value) / 100;
  const setInput = (name, percent) => {
    input(name).step = "any"; // keys take whole steps again
    input(name).value = percent;
  };
  const clamp = (number, low, high) => Math.min(Math.max(number, low), high);
  const isBoxing = () => Boolean(data.boxing);

  const setSource = (selector, source) => {
    for (const image of all(selector)) {
      image.hidden = !source;
      if (source && image.getAttribute("src") !== source) image.src = source;
    }
  };
  setSource(".film", data.full || data.film);
  setSource(".layer", data.layer);
  setSource(".outline", data.outline);
  find(".colored .film").alt = data.description;
  for (const element of all(".for-layer")) element.hidden = !data.layer;
  find(".legend").hidden = !data.visible;
  for (const element of all(".for-outline")) element.hidden = !data.outline;
  button("link").hidden = !data.linked;
  button("fullscreen").hidden = !document.fullscreenEnabled;

  // stage.corner: the upper left corner of the visible part; stage.box: two corners; shares of the film
  const draw = () => {
    const zoom = value("zoom"), corner = stage.corner;
    for (const axis of ["x", "y"]) corner[axis] = clamp(corner[axis], 0, 1 - 1 / zoom);
    const isSplit = isPressed("split") && Boolean(data.layer);
    for (const pictures of all(".pictures")) {
      pictures.style.transform = `scale(${zoom}) translate(${-100 * corner.x}%, ${-100 * corner.y}%)`;
    }
    find(".plain").hidden = !isSplit;
    viewer.style.setProperty("--aspect", isSplit ? 2 * data.aspect : data.aspect);
    stage.style.setProperty("--aspect", data.aspect);
    stage.classList.toggle("zoomed", zoom > 1);
    stage.classList.toggle("boxing", isBoxing());
    const inversion = isPressed("invert") ? "invert(1) " : "";
    for (const film of all(".film")) {
      film.style.filter = `${inversion}brightness(${value("brightness")}) contrast(${value("contrast")})`;
    }
    find(".layer").style.opacity = value("opacity");
    for (const outline of all(".outline")) outline.hidden = !data.outline || !isPressed("outline");
    box.hidden = !isBoxing() || !stage.box;
    if (!box.hidden) {
      const [x0, y0, x1, y1] = sortCorners(stage.box);
      Object.assign(box.style, {
        left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%`,
      });
    }
    if (zoom >= FULL_FROM && data.larger && stage.requested !== data.digest) {
      stage.requested = data.digest;
      setStateValue("full", data.digest);
    }
  };
  const sortCorners = ([xa, ya, xb, yb]) => [
    Math.min(xa, xb), Math.min(ya, yb), Math.max(xa, xb), Math.max(ya, yb),
  ];
  const sendBox = () => {
    const [x0, y0, x1, y1] = sortCorners(stage.box);
    const isLarge = x1 - x0 > 0.01 && y1 - y0 > 0.01;
    if (isLarge) setStateValue("box", { digest: data.digest, corners: [x0, y0, x1, y1] });
    return isLarge;
  };
  const restoreBox = () => { // a click, or a finger that comes before a second one, draws no box
    stage.box = stage.scored;
    draw();
  };

  // x and y: the point that stays where it is, as shares of the pane
  const zoomTo = (zoom, x = 0.5, y = 0.5) => {
    const before = stage.zoom;
    stage.zoom = clamp(zoom, 1, Number(input("zoom").max) / 100);
    stage.corner.x += x / before - x / stage.zoom;
    stage.corner.y += y / before - y / stage.zoom;
    setInput("zoom", 100 * stage.zoom);
    draw();
  };
  const move = (dx, dy) => {
    const pane = find(".colored");
    stage.corner.x -= dx / pane.clientWidth / value("zoom");
    stage.corner.y -= dy / pane.clientHeight / value("zoom");
    draw();
  };
  const setWindow = (dx, dy) => {
    setInput("contrast", 100 * value("contrast") + dx / 2);
    setInput("brightness", 100 * value("brightness") - dy / 2);
    draw();
  };
  const reset = () => {
    for (const element of inputs) element.value = element.defaultValue;
    for (const element of switches) press(element.name, element.name === "outline");
    stage.corner = { x: 0, y: 0 };
    stage.zoom = 1;
  };
  const toggle = (name) => {
    press(name, !isPressed(name));
    draw();
  };
  const resetAndDraw = () => {
    reset();
    draw();
  };
  const toggleFullscreen = () =>
    document.fullscreenElement ? document.exitFullscreen() : viewer.requestFullscreen();

  for (const element of inputs) {
    element.oninput = element.name === "zoom" ? () => zoomTo(value("zoom")) : draw;
    element.onkeydown = () => { element.step = element.name === "zoom" ? 25 : 1; };
  }
  for (const element of switches) element.onclick = () => toggle(element.name);
  button("reset").onclick = stage.ondblclick = resetAndDraw;
  button("fullscreen").onclick = toggleFullscreen;
  button("link").onclick = async () => {
    await navigator.clipboard.writeText(window.location.href);
    button("link").textContent = "Copied";
    setTimeout(() => { button("link").textContent = "Copy link"; }, 2000);
  };

  // Pointers
  const place = (event) => {
    const bounds = stage.pane.getBoundingClientRect();
    return [(event.clientX - bounds.left) / bounds.width, (event.clientY - bounds.top) / bounds.height];
  };
  const placeOnFilm = (event) => {
    const [x, y] = place(event), zoom = value("zoom");
    return [clamp(stage.corner.x + x / zoom, 0, 1), clamp(stage.corner.y + y / zoom, 0, 1)];
  };
  const describeTwo = () => {
    const [a, b] = [...stage.pointers.values()];
    return { clientX: (a.x + b.x) / 2, clientY: (a.y + b.y) / 2, distance: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  stage.pointers ??= new Map();
  stage.onpointerdown = (event) => {
    stage.focus({ preventScroll: true });
    stage.pane = event.target.closest(".pane") ?? find(".colored");
    stage.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    stage.setPointerCapture(event.pointerId);
    if (stage.pointers.size === 2) {
      if (stage.action === "box") restoreBox();
      stage.action = "two";
      stage.two = describeTwo();
      stage.start = new Map(stage.pointers);
    } else if (event.button === 2) {
      stage.action = "window";
    } else if (isBoxing()) {
      stage.action = "box";
      const [x, y] = placeOnFilm(event);
      stage.scored = stage.box;
      stage.box = [x, y, x, y];
    } else {
      stage.action = "move";
    }
  };
  stage.onpointermove = (event) => {
    const before = stage.pointers.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before.x, dy = event.clientY - before.y;
    stage.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (stage.action === "move") move(dx, dy);
    if (stage.action === "window") setWindow(dx, dy);
    if (stage.action === "box") {
      stage.box.splice(2, 2, ...placeOnFilm(event));
      draw();
    }
    if (["two", "pinch", "parallel"].includes(stage.action)) moveTwo();
  };
  const moveTwo = () => {
    const now = describeTwo(), last = stage.two;
    if (stage.action === "two") {
      const [a, b] = [...stage.pointers].map(([id, { x, y }]) => [x - stage.start.get(id).x, y - stage.start.get(id).y]);
      const [shorter, longer] = [Math.hypot(...a), Math.hypot(...b)].sort((p, q) => p - q);
      if (shorter < MOVED_PX && longer < 5 * MOVED_PX) return; // fingers report one after the other
      stage.action = a[0] * b[0] + a[1] * b[1] > 0 ? "parallel" : "pinch";
    }
    if (stage.action === "pinch") {
      move(now.clientX - last.clientX, now.clientY - last.clientY);
      zoomTo((stage.zoom * now.distance) / Math.max(last.distance, 1), ...place(now));
    } else {
      setWindow(now.clientX - last.clientX, now.clientY - last.clientY);
    }
    stage.two = now;
  };
  stage.onpointerup = stage.onpointercancel = (event) => {
    if (!stage.pointers.delete(event.pointerId)) return;
    if (stage.action === "box" && !(event.type === "pointerup" && sendBox())) restoreBox();
    stage.action = null;
  };
  stage.oncontextmenu = stage.ondragstart = (event) => event.preventDefault();
  stage.onwheel = (event) => {
    const zoom = clamp(stage.zoom * Math.exp(-event.deltaY / 400), 1, Number(input("zoom").max) / 100);
    if (zoom === stage.zoom) return; // then the page scrolls
    event.preventDefault();
    stage.pane = event.target.closest(".pane") ?? find(".colored");
    zoomTo(zoom, ...place(event));
  };

  // Keys, while the film has the focus
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const moveBox = ([dx, dy], resizes) => {
    stage.box ??= [0.4, 0.4, 0.6, 0.6];
    [dx, dy].forEach((direction, axis) => {
      const [low, high] = [stage.box[axis], stage.box[axis + 2]].sort((a, b) => a - b);
      const step = clamp(STEP * direction, resizes ? -1 : -low, 1 - high); // a moved box keeps its size
      if (!resizes) stage.box[axis] += step;
      stage.box[axis + 2] = clamp(stage.box[axis + 2] + step, 0, 1);
    });
    draw();
  };
  const pan = ([dx, dy]) => {
    stage.corner.x += (STEP * dx) / stage.zoom;
    stage.corner.y += (STEP * dy) / stage.zoom;
    draw();
  };
  const actions = {
    "+": () => zoomTo(1.25 * stage.zoom), "=": () => zoomTo(1.25 * stage.zoom), "-": () => zoomTo(stage.zoom / 1.25),
    0: resetAndDraw, i: () => toggle("invert"), l: () => toggle("outline"), f: toggleFullscreen,
    s: () => data.layer && toggle("split"), e: () => stage.classList.add("bare"),
  };
  stage.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase(), arrow = ARROWS[event.key];
    if (!arrow && !actions[key]) return;
    if (arrow && !isBoxing() && stage.zoom === 1) return; // then the page scrolls
    event.preventDefault();
    if (!arrow) actions[key]();
    else if (isBoxing()) moveBox(arrow, event.shiftKey);
    else pan(arrow);
  };
  stage.onkeyup = (event) => {
    if (event.key.toLowerCase() === "e") stage.classList.remove("bare");
    if (isBoxing() && ARROWS[event.key]) sendBox();
  };
  stage.onblur = () => stage.classList.remove("bare");

  if (stage.digest !== data.digest) { // the settings of one film do not suit the next
    reset();
    stage.box = data.box; // drawn on this film before, or null
    stage.requested = null;
  }
  stage.digest = data.digest;
  draw();
}
