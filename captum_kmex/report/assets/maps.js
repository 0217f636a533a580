// Maps over the picture, their scale, and all methods side by side.

const UNSEEN = 0.01; // of full colour, that looks like none

// What may lie over the picture: [value, name].
const overlays = memo(() => [
  ...(hasSegments ? [["segments", "segments"], ["map", "map"]] : []),
  ...report.methods.map((name, i) => [`method-${i}`, name]),
  ["none", "none"],
]);
const mapKinds = memo(() => overlays().filter(([value]) => value !== "segments" && value !== "none"));

const methodOf = memo((key) => {
  const [i, place] = key.split("/").map(Number);
  const image = imageOf(i), record = image.methods[place];
  return { grid: record.grid, maps: rowsOf(numbers(record.maps, Float32Array), image.targets.length) };
});

// The map of a kind for what is asked, as values that the whole would add up to if all cells were so.
function mapOf(kind) {
  if (kind === "map") {
    const { height, width } = atDepth(`${state.image}/${state.depth}`);
    return toDensity(state.sums.map, [height, width]);
  }
  const { targets } = imageOf(state.image), { grid, maps } = methodOf(`${state.image}/${kind.slice(7)}`);
  const own = maps[targets.indexOf(state.target)], other = maps[targets.indexOf(state.against)];
  return toDensity(other ? own.map((value, at) => value - other[at]) : own, grid);
}

function toDensity(map, [height, width]) {
  const values = Float64Array.from(map, (value) => value * map.length);
  const full = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  return { values, height, width, full, isSigned: values.some((value) => value < -UNSEEN * full) };
}

// Place among the shades: both sides of white, or from white on where nothing speaks against.
function shadeOf(value, { full, isSigned }) {
  const shades = isSigned ? report.shades : report.shadesFor, last = shades.length - 1;
  const share = isSigned ? (value / full + 1) / 2 : Math.max(0, value / full);
  return shades[Math.round(share * last)];
}

const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

function paintCells(canvas, width, height, colorAt) {
  Object.assign(canvas, { width, height });
  const drawing = canvas.getContext("2d"), pixels = drawing.createImageData(width, height);
  for (let at = 0; at < width * height; at++) pixels.data.set([...rgb(colorAt(at)), 255], 4 * at);
  drawing.putImageData(pixels, 0, 0);
}

function paintMap(canvas, map) {
  paintCells(canvas, map.width, map.height, (at) => shadeOf(map.values[at], map));
}

// Fill the cells with their segments' colours, or with a map.
function paint(sums) {
  if (sums !== undefined) state.sums = sums;
  const canvas = stage.querySelector("canvas");
  byId("scale").replaceChildren();
  if (state.overlay === "segments") {
    const { cells, width, height } = atDepth(`${state.image}/${state.depth}`);
    paintCells(canvas, width, height, (at) => segmentColor(cells[at]));
  } else if (state.overlay !== "none") {
    const map = mapOf(state.overlay);
    paintMap(canvas, map);
    byId("scale").replaceChildren(...scaleBar(map));
  }
  paintMethods();
}

function scaleBar(map) {
  const bar = make("canvas", { "aria-hidden": "true" }), steps = report.shades.length;
  const ends = map.isSigned ? [-map.full, 0, map.full] : [0, map.full];
  paintCells(bar, steps, 1, (at) => shadeOf(ends[0] + (at * (map.full - ends[0])) / (steps - 1), map));
  const words = map.isSigned ? "blue against, red for" : "nothing against";
  const unit = state.overlay === "map" ? "logit, if all cells were so" : "the method\u2019s own units";
  return [bar, make("div", { class: "ends" }, ...ends.map((end) => make("span", {}, end === 0 ? "0" : brief(end)))),
    make("p", { class: "facts" }, `${words}; ${unit}`)];
}

const brief = (value) => {
  const size = Math.abs(value), text = size >= 1000 || size < 0.001 ? size.toExponential(1) : String(Number(size.toPrecision(3)));
  return `${value < 0 ? "\u2212" : "+"}${text}`;
};

// One small picture a map, where there are several; each opens on the stage.
function renderMethods() {
  const kinds = mapKinds(), image = imageOf(state.image);
  byId("methods").replaceChildren(...(kinds.length < 2 ? [] : kinds.map(([value, name]) => {
    const picture = make("span", { class: "method" }, make("img", { src: image.picture, alt: "" }), make("canvas", { "aria-hidden": "true" }));
    picture.style.aspectRatio = image.aspect;
    return make("button", { type: "button", "data-method": value, click: () => showOverlay(value) }, picture,
      make("span", {}, value === "map" ? report.mainName : name));
  })));
}

function paintMethods() {
  for (const node of byId("methods").querySelectorAll("button")) {
    paintMap(node.querySelector("canvas"), mapOf(node.dataset.method));
    node.setAttribute("aria-pressed", node.dataset.method === state.overlay);
  }
}

function renderOverlays() {
  byId("overlay").replaceChildren(
    choice("overlay", "Overlay", overlays(), state.overlay, showOverlay),
    make("label", { class: "field" }, make("span", {}, "Opacity"), make("input", {
      type: "range", id: "opacity", min: 0, max: 1, step: 0.05, value: state.opacity,
      input: (event) => { state.opacity = Number(event.target.value); applyOverlay(); },
    })),
    make("button", { type: "button", id: "save", click: savePicture }, "Save as PNG"));
}

function showOverlay(overlay) {
  state.overlay = overlay;
  for (const button of document.getElementsByName("overlay")) button.checked = button.value === overlay;
  applyOverlay();
  paint();
  writeAddress();
}

function applyOverlay() {
  stage.dataset.overlay = state.overlay;
  stage.style.setProperty("--opacity", state.overlay === "none" ? 0 : state.opacity);
}
