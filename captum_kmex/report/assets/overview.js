// Figures of the whole, confusable prototypes, where it comes from; then the page begins.

function figure(value, name, note) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value), note ? make("dd", { class: "facts" }, note) : null);
}

const SUMS = {
  false: "Each image is cut into segments; what they add to a logit sums to it.",
  true: "Each image is cut into segments; parts were removed and the model run again, and what segments add sums to the logit.",
};
const LIMITS = {
  allocated: "A map shows where features resemble a prototype and how the head weighs them, not what caused the score. "
    + "Below the deepest layer, evidence is allocated: a shallow segment gets the deep evidence that lies over it.",
  measured: "Measured evidence tells what removing parts does to the model\u2019s answer, with what stands in their place; \u00b1 is one standard deviation, "
    + "and a pale bar cannot be told from none.",
  surrogate: "Predictions of the prototypes are a surrogate, not the model.",
  methods: "Maps of other methods are in their own units, each on its own scale.",
};

function renderFigures() {
  const [finest] = report.depths;
  const figures = [figure(nImages.toLocaleString("en"), nImages === 1 ? "image" : "images")];
  if (report.labelled) figures.push(figure(percent(report.accuracy), "model\u2019s accuracy"));
  if (report.isFitted) {
    if (report.labelled) figures.push(figure(percent(finest.accuracy), "prototypes\u2019 accuracy"));
    figures.push(figure(percent(finest.fidelity), "fidelity", "prototypes agree with the model"));
    figures.push(figure(`${finest.used} of ${finest.prototypes}`, "prototypes used"));
    figures.push(figure(percent(finest.purity), "purity", "pixels won in images of the prototype\u2019s class"));
  }
  if (report.r2 !== null) figures.push(figure(fixed(report.r2), "R\u00b2 of the surrogate", "the model has no linear head; ledgers show what this misses"));
  byId("figures").append(...figures);
  const about = hasSegments ? `layers ${finest.layers.join(", ")}. ${SUMS[report.isMeasured]}` : `maps of ${report.methods.join(", ")}.`;
  byId("lead").textContent = `${count(nImages, "image")}, ${count(report.classNames.length, "class", "classes")}, ${about}`;
  byId("limit").textContent = [
    hasSegments && !report.isMeasured ? LIMITS.allocated : "", report.isMeasured ? LIMITS.measured : "",
    report.isFitted ? LIMITS.surrogate : "", report.methods.length ? LIMITS.methods : ""].filter(Boolean).join(" ");
}

function renderDepths() {
  if (!report.isFitted || report.depths.length < 2) return;
  const names = ["Prototypes of", ...(report.labelled ? ["accuracy"] : []), "fidelity", "used", "purity"];
  const row = (depth, d) => make("tr", {}, make("th", { scope: "row" }, depthName(d)),
    ...[...(report.labelled ? [percent(depth.accuracy)] : []), percent(depth.fidelity), `${depth.used} of ${depth.prototypes}`, percent(depth.purity)]
      .map((text) => make("td", { class: "number" }, text)));
  byId("depth-scores").append(make("table", {}, make("caption", { class: "unseen" }, "Scores by depth"),
    make("thead", {}, make("tr", {}, ...names.map((name, i) => make("th", { scope: "col", class: i ? "number" : null }, name)))),
    make("tbody", {}, ...report.depths.map(row))));
}

function renderConfusions(depth) {
  const { near, traded, blank } = report.depths[depth];
  const side = (k, c) => make("div", {}, make("b", {}, k < 0 ? className(c) : prototypeName(depth, k)), k < 0 ? null : patchRow(depth, k, null, 3));
  const pair = (a, b, note) => make("li", {}, make("p", {}, note), make("div", { class: "pair" }, a, b));
  const radius = (k) => fixed(prototypeOf(depth, k).radius, 2);
  byId("blank").textContent = blank ? `${count(blank, "prototype")} of blank ground, alike in all classes, ${blank === 1 ? "is" : "are"} left out.` : "";
  byId("confusion-lists").replaceChildren(
    make("div", {}, make("h3", {}, "Win each other\u2019s images"),
      make("ul", {}, ...traded.map(([a, b, ours, theirs, share]) =>
        pair(side(ours, a), side(theirs, b), `${className(a)} and ${className(b)}: ${percent(share)} of their pixels change sides`)))),
    make("div", {}, make("h3", {}, "Nearest to each other"),
      make("ul", {}, ...near.map(([a, b, distance]) =>
        pair(side(a), side(b), `distance ${fixed(distance, 2)}; radii ${radius(a)} and ${radius(b)}`)))));
}

function renderConfusable() {
  const has = report.isFitted && report.depths.some(({ near, traded }) => near.length || traded.length);
  if (!has) {
    byId("confusable").remove();
    document.querySelector("nav a[href='#confusable']").remove();
    return;
  }
  const depths = report.depths.map((_, d) => [d, depthName(d)]);
  if (depths.length > 1) byId("confusions").append(make("div", { class: "toolbar" }, choice("confusion-depth", "Prototypes of", depths, 0, renderConfusions)));
  byId("confusions").append(make("p", { id: "blank", class: "facts" }), make("div", { id: "confusion-lists", class: "lists" }));
  renderConfusions(0);
}

renderFigures();
renderDepths();
renderConfusable();
renderPrototypes();
byId("provenance").append(...report.provenance.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
listen();
renderFilters();
roving(strip, "button", columnsOf);
renderStrip();
if (!followAddress()) showImage(0);
markCurrent();
address.isWritten = true;
performance.mark("ready");
