// One image under the glass: picture, segments and ledger answer to each other.

const NUMBERED = 12;
const stage = byId("stage");

function showImage(i) {
  const image = imageOf(i);
  Object.assign(state, { image: i, target: image.targets[0], against: null });
  const { name } = report.verdicts;
  byId("image-title").textContent = name[i] ? `Image ${i}: ${name[i]}` : `Image ${i}`;
  byId("previous").disabled = i === 0;
  byId("next").disabled = i === nImages - 1;
  renderQuestion();
  showDepth(state.depth);
}

function showDepth(depth) {
  Object.assign(state, { depth, isExpanded: false, hovered: null });
  byId("verdict").replaceChildren(...verdict());
  renderStage();
  ask({});
  select(0, false);
}

// Change the explained class, its contrast, or how much of the ledger is shown.
function ask(change) {
  Object.assign(state, change);
  if (state.against === state.target) state.against = null;
  const sums = account(state.image, state.depth, state.target, state.against);
  byId("ledger").replaceChildren(ledgerTable(sums, {
    select,
    expand: () => {
      ask({ isExpanded: !state.isExpanded });
      byId("ledger").querySelector(".more").focus();
    },
  }));
  paint(sums);
  highlight();
  if ("target" in change || "against" in change) say(question(sums));
}

const say = (text) => { byId("status").textContent = text; };

function verdict() {
  const { label, prediction, votes } = report.verdicts, i = state.image;
  const word = (title, c, good) => make("span", { class: "verdict" }, `${title} `,
    make("b", {}, className(c)), good === null ? null : make("span", { class: good ? "good" : "bad" }, good ? " \u2713" : " \u2717"));
  const isRight = (c) => (label[i] < 0 ? null : c === label[i]);
  const words = [word("model", prediction[i], isRight(prediction[i]))];
  if (label[i] >= 0) words.unshift(word("true class", label[i], null));
  if (report.isFitted) words.push(word("prototypes", votes[state.depth][i], isRight(votes[state.depth][i])));
  return words;
}

function renderQuestion() {
  const image = imageOf(state.image);
  const depths = report.depths.map((_, d) => [d, `${depthName(d)} \u00b7 ${image.depths[d].grid.join("\u00d7")}`]);
  const targets = image.targets.map((c, t) => [c, `${className(c)} ${fixed(image.output[t], 2)}`]);
  byId("question").replaceChildren(
    ...(depths.length > 1 ? [choice("depth", "Segments of", depths, state.depth, showDepth)] : []),
    choice("target", "Why", targets, state.target, (target) => { ask({ target }); renderContrast(); }),
    make("label", { class: "field" }, make("span", {}, "Why not"), make("select", { id: "contrast" })));
  renderContrast();
}

function renderContrast() {
  const field = byId("contrast");
  const others = imageOf(state.image).targets.filter((c) => c !== state.target);
  field.replaceChildren(make("option", { value: "" }, "\u2013"),
    ...others.map((c) => make("option", { value: c, selected: c === state.against }, className(c))));
  field.onchange = () => ask({ against: field.value === "" ? null : Number(field.value) });
}

function renderStage() {
  const found = atDepth(`${state.image}/${state.depth}`), image = imageOf(state.image);
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", `0 0 ${found.width} ${found.height}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "group");
  drawing.setAttribute("aria-label", "Segments of the image; arrow keys go from one to the next");
  drawing.append(...found.fills.map((shape, s) => segmentShape(found, s, shape)));
  drawing.append(outline("lines", found.edges.join("")), outline("halo", ""), outline("ring", ""));
  stage.style.aspectRatio = image.aspect;
  stage.style.setProperty("--aspect", image.aspect);
  stage.replaceChildren(
    make("img", { src: image.picture, alt: "", class: "picture" }),
    make("canvas", { width: found.width, height: found.height, "aria-hidden": "true" }),
    ...segmentNumbers(found), drawing);
  const picture = stage.querySelector("img");
  picture.onload = () => picture.classList.toggle("pixels", Math.max(picture.naturalWidth, picture.naturalHeight) <= 64);
  applyOverlay();
}

function outline(kind, shape) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("class", kind);
  path.setAttribute("d", shape);
  return path;
}

function segmentShape(found, s, shape) {
  const path = outline("segment", shape);
  path.setAttribute("data-segment", s);
  path.setAttribute("role", "button");
  path.setAttribute("tabindex", s === 0 ? 0 : -1);
  path.setAttribute("aria-label", segmentName(found, s));
  return path;
}

function segmentName(found, s) {
  const prototype = report.isFitted ? `: ${prototypeName(state.depth, found.prototypes[s])}` : "";
  return `segment ${s + 1}${prototype}, ${percent(found.area[s])} of the image`;
}

function segmentNumbers(found) {
  return found.centres.slice(0, NUMBERED).flatMap(({ x, y, far }, s) => {
    if ((2 * far - 1) / Math.max(found.width, found.height) < 0.04) return [];
    const node = make("span", { class: "tag", "aria-hidden": "true" }, String(s + 1));
    node.style.left = `${(100 * (x + 0.5)) / found.width}%`;
    node.style.top = `${(100 * (y + 0.5)) / found.height}%`;
    return [node];
  });
}

// Fill the cells with their segments' colours, or with the map: red for, blue against.
function paint(sums) {
  if (sums) state.sums = sums;
  const canvas = stage.querySelector("canvas"), { cells } = atDepth(`${state.image}/${state.depth}`);
  const drawing = canvas.getContext("2d"), pixels = drawing.createImageData(canvas.width, canvas.height);
  const { map } = state.sums, scale = map.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-12);
  const middle = (report.shades.length - 1) / 2;
  cells.forEach((s, at) => {
    const shade = report.shades[Math.round(middle + (middle * map[at]) / scale)];
    const color = state.overlay === "map" ? shade : segmentColor(s);
    for (let part = 0; part < 3; part++) pixels.data[4 * at + part] = parseInt(color.slice(1 + 2 * part, 3 + 2 * part), 16);
    pixels.data[4 * at + 3] = 255;
  });
  drawing.putImageData(pixels, 0, 0);
}

function applyOverlay() {
  stage.dataset.overlay = state.overlay;
  stage.style.setProperty("--opacity", state.overlay === "none" ? 0 : state.opacity);
}

const current = () => state.hovered ?? state.selected;

function highlight() {
  const s = current(), found = atDepth(`${state.image}/${state.depth}`);
  for (const kind of ["halo", "ring"]) stage.querySelector(`.${kind}`).setAttribute("d", s === null ? "" : found.edges[s]);
  stage.classList.toggle("hovering", state.hovered !== null);
  for (const node of document.querySelectorAll("#viewer [data-segment]")) {
    const own = Number(node.dataset.segment);
    node.classList.toggle("active", own === s);
    if (node.matches("button, .segment")) node.setAttribute("aria-pressed", own === state.selected);
    if (node.matches(".segment")) node.setAttribute("tabindex", own === (state.selected ?? 0) ? 0 : -1);
  }
  byId("detail").replaceChildren(...(s === null ? [] : detail(found, s)));
}

function select(s, isSpoken = true) {
  Object.assign(state, { selected: s, hovered: null });
  highlight();
  if (s === null || !isSpoken) return;
  const found = atDepth(`${state.image}/${state.depth}`);
  say(`${segmentName(found, s)}, evidence ${signed(state.sums.evidence[s])} for ${asked()}`);
}

function hover(s) {
  if (s === state.hovered) return;
  state.hovered = s;
  highlight();
}

// Kept, so that patches seen before do not flicker.
const patchesOf = memo((key) => {
  const [depth, k, s] = key.split("/").map(Number);
  return patchRow(depth, k, segmentColor(s));
});

// Everything about one segment: what it adds to each shown logit, and its training patches.
function detail(found, s) {
  const image = imageOf(state.image), k = found.prototypes[s];
  const facts = image.targets.map((c, t) => make("div", {}, make("dt", {}, className(c)), make("dd", {}, signed(found.evidence[t][s]))));
  const heading = make("h4", {}, chip(s), ` ${report.isFitted ? prototypeName(state.depth, k) : `segment ${s + 1}`}`);
  const adds = make("div", { class: "adds" }, heading,
    make("p", {}, `${percent(found.area[s])} of the image; it adds to the logit of`), make("dl", {}, ...facts));
  if (!report.isFitted) return [adds];
  const { patches } = prototypeOf(state.depth, k);
  return [adds, make("div", {},
    make("p", {}, patches.length ? "resembles these training patches, nearest first" : "the fit kept no training patches of it"),
    patchesOf(`${state.depth}/${k}/${s}`),
    make("button", { type: "button", class: "more", click: () => revealPrototype(state.depth, k) }, "More about this prototype"))];
}

function listen() {
  const viewer = byId("viewer");
  const segmentAt = (node) => {
    const holder = node.closest?.("#stage [data-segment], #ledger [data-segment]");
    return holder ? Number(holder.dataset.segment) : null;
  };
  viewer.addEventListener("pointerover", (event) => { if (event.pointerType !== "touch") hover(segmentAt(event.target)); });
  viewer.addEventListener("pointerleave", () => hover(null));
  stage.addEventListener("click", (event) => select(segmentAt(event.target)));
  stage.addEventListener("focusin", (event) => select(segmentAt(event.target)));
  viewer.addEventListener("keydown", (event) => { if (event.key === "Escape") select(null); });
  roving(stage, ".segment");
  byId("previous").addEventListener("click", () => openImage(state.image - 1));
  byId("next").addEventListener("click", () => openImage(state.image + 1));
  const kinds = [["segments", "segments"], ["map", "map"], ["none", "none"]];
  byId("overlay").append(
    choice("overlay", "Overlay", kinds, state.overlay, (overlay) => { state.overlay = overlay; applyOverlay(); paint(); }),
    make("label", { class: "field" }, make("span", {}, "Opacity"), make("input", {
      type: "range", id: "opacity", min: 0, max: 1, step: 0.05, value: state.opacity,
      input: (event) => { state.opacity = Number(event.target.value); applyOverlay(); },
    })),
    make("p", { class: "key" }, make("span", { class: "swatch for" }), "for", make("span", { class: "swatch against" }), "against"));
}
