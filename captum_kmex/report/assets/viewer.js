// One image under the glass: picture, segments and ledger answer to each other.

const NUMBERED = 12;
const stage = byId("stage");

function showImage(i) {
  const image = imageOf(i);
  Object.assign(state, { image: i, target: image.targets[0], against: null });
  const { name } = report.verdicts;
  byId("image-title").textContent = name[i] ? `Image ${i}: ${name[i]}` : `Image ${i}`;
  renderMethods();
  renderSteps();
  showDepth(state.depth);
  renderQuestion();
}

// Previous and next of those that the strip shows, in its order.
function neighbour(step) {
  const at = shownImages.indexOf(state.image);
  return at < 0 ? shownImages[0] : shownImages[at + step];
}

function renderSteps() {
  byId("previous").disabled = neighbour(-1) === undefined;
  byId("next").disabled = neighbour(1) === undefined;
}

function showDepth(depth) {
  Object.assign(state, { depth, isExpanded: false, hovered: null, selected: null });
  byId("verdict").replaceChildren(...verdict());
  renderStage();
  ask({});
  select(hasSegments ? 0 : null, false);
}

// Change the explained class, its contrast, or how much of the ledger is shown.
function ask(change) {
  Object.assign(state, change);
  if (state.against === state.target) state.against = null;
  if (!hasSegments) {
    byId("ledger").replaceChildren(probabilityTable());
    paint(null);
    answer();
    writeAddress();
    return;
  }
  const sums = account(state.image, state.depth, state.target, state.against);
  const expand = () => {
    ask({ isExpanded: !state.isExpanded });
    byId("ledger").querySelector(".more").focus();
  };
  byId("ledger").replaceChildren(ledgerTable(sums, { select, expand }), ...fewestLines(sums, { select }));
  paint(sums);
  highlight();
  writeAddress();
  if ("target" in change || "against" in change) say(question(sums));
}

const say = (text) => { byId("status").textContent = text; };

function verdict() {
  const { label, prediction, votes } = report.verdicts, i = state.image;
  const word = (title, c, good) => make("span", { class: "verdict" }, `${title} `,
    make("b", {}, className(c)), good === null ? null : make("span", { class: good ? "good" : "bad", role: "img", "aria-label": good ? "right" : "wrong" }, good ? " \u2713" : " \u2717"));
  const isRight = (c) => (label[i] < 0 ? null : c === label[i]);
  const sure = make("span", {}, ` ${percent(report.verdicts.confidence[i])}`);
  const model = word("model", prediction[i], isRight(prediction[i]));
  model.append(sure);
  const words = [model];
  if (label[i] >= 0) words.unshift(word("true class", label[i], null));
  if (report.isFitted) words.push(word("prototypes", votes[state.depth][i], isRight(votes[state.depth][i])));
  return words;
}

function renderQuestion() {
  const image = imageOf(state.image);
  const depths = report.depths.map((_, d) => [d, `${depthName(d)} \u00b7 ${image.depths[d].grid.join("\u00d7")}`]);
  const targets = image.targets.map((c, t) => [c, `${className(c)} ${percent(image.probability[t])}`]);
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
  const image = imageOf(state.image);
  stage.style.aspectRatio = image.aspect;
  stage.style.setProperty("--aspect", image.aspect);
  stage.replaceChildren(make("img", { src: image.picture, alt: "" }), make("canvas", { "aria-hidden": "true" }));
  if (hasSegments) stage.append(...segmentsOnStage());
  applyOverlay();
}

function segmentsOnStage() {
  const found = atDepth(`${state.image}/${state.depth}`);
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("viewBox", `0 0 ${found.width} ${found.height}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "group");
  drawing.setAttribute("aria-label", "Segments of the image; arrow keys go from one to the next");
  drawing.append(...found.fills.map((shape, s) => segmentShape(found, s, shape)));
  drawing.append(outline("lines", found.edges.join("")), outline("halo", ""), outline("ring", ""));
  return [...segmentNumbers(found), drawing];
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

const current = () => state.hovered ?? state.selected;

// What is pointed at, in a line below the picture: on a phone the ledger is out of sight.
function answer() {
  const s = current(), node = byId("answer");
  if (!hasSegments) {
    const { targets, probability } = imageOf(state.image);
    node.textContent = `${className(state.target)}: ${percent(probability[targets.indexOf(state.target)])}`;
    return;
  }
  const { sums } = state, total = state.against === null ? "logit" : "difference";
  if (s === null) {
    node.textContent = `${asked()}: ${total} ${fixed(sums.output)}`;
    return;
  }
  const found = atDepth(`${state.image}/${state.depth}`), error = sums.errors ? ` \u00b1 ${fixed(sums.errors[s])}` : "";
  node.replaceChildren(chip(s), make("b", {}, report.isFitted ? prototypeName(state.depth, found.prototypes[s]) : `segment ${s + 1}`),
    make("span", {}, `${signed(sums.evidence[s])}${error} of ${total} ${fixed(sums.output)} for ${asked()}`));
}

function highlight() {
  if (!hasSegments) return;
  answer();
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
  writeAddress();
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
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", stepByKey);
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("beforeprint", showAllPictures);
  renderOverlays();
}

function step(by) {
  const to = neighbour(by);
  if (to === undefined) return;
  openImage(to);
  say(byId("image-title").textContent);
}

// n and p anywhere but where one types; arrows where nothing else moves by them.
function stepByKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input:not([type=radio], [type=range])")) return;
  const isFree = event.target === document.body || event.target.matches("#viewer h3, #previous, #next");
  const by = { n: 1, p: -1, ...(isFree ? { ArrowRight: 1, ArrowLeft: -1 } : {}) }[event.key];
  if (!by) return;
  event.preventDefault();
  step(by);
}
