// Figures of the whole, confusable prototypes, where it comes from; then the page begins.

function figure(value, name, note) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value), note ? make("dd", { class: "facts" }, note) : null);
}

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
  const layers = finest.layers.join(", ");
  byId("lead").textContent = `${count(nImages, "image")}, ${count(report.classNames.length, "class", "classes")}, layers ${layers}. `
    + "Each image is cut into segments; what they add to a logit sums to it.";
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
  const { near, traded } = report.depths[depth];
  const side = (k, c) => make("div", {}, make("b", {}, k < 0 ? className(c) : prototypeName(depth, k)), k < 0 ? null : patchRow(depth, k, null, 3));
  const pair = (a, b, note) => make("li", {}, make("p", {}, note), make("div", { class: "pair" }, a, b));
  const radius = (k) => fixed(prototypeOf(depth, k).radius, 2);
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
  byId("confusions").append(make("div", { id: "confusion-lists", class: "lists" }));
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
showImage(0);
renderStrip();
performance.mark("ready");
