// Which images to see: a strip of pictures, filtered by what went wrong and by class.

const strip = byId("strip");
const view = { kind: "all", class: "" };
const chosenIs = {
  all: () => true,
  wrong: (i) => report.verdicts.label[i] >= 0 && report.verdicts.label[i] !== report.verdicts.prediction[i],
  apart: (i) => report.verdicts.votes[state.depth][i] !== report.verdicts.prediction[i],
};
const classOf = (i) => (report.verdicts.label[i] >= 0 ? report.verdicts.label[i] : report.verdicts.prediction[i]);

function renderFilters() {
  const all = Array.from({ length: nImages }, (_, i) => i);
  const kinds = [["all", `all ${nImages}`]];
  if (report.labelled) kinds.push(["wrong", `model wrong ${all.filter(chosenIs.wrong).length}`]);
  if (report.isFitted) kinds.push(["apart", `prototypes differ ${all.filter(chosenIs.apart).length}`]);
  const classes = [...new Set(all.map(classOf))].sort((a, b) => a - b);
  const field = make("select", { id: "class-filter", change: (event) => { view.class = event.target.value; renderStrip(); } },
    make("option", { value: "" }, "all"), ...classes.map((c) => make("option", { value: c }, className(c))));
  byId("filters").replaceChildren(
    ...(kinds.length > 1 ? [choice("kind", "Show", kinds, view.kind, (kind) => { view.kind = kind; renderStrip(); })] : []),
    ...(classes.length > 1 ? [make("label", { class: "field" }, make("span", {}, report.labelled ? "True class" : "Class"), field)] : []));
}

function renderStrip() {
  const shown = Array.from({ length: nImages }, (_, i) => i).filter((i) =>
    chosenIs[view.kind](i) && (view.class === "" || classOf(i) === Number(view.class)));
  strip.replaceChildren(...shown.map(stripButton));
  if (!shown.length) strip.append(make("p", {}, "None of the images."));
  markCurrent();
}

function stripButton(i) {
  const { label, prediction, name } = report.verdicts;
  const isWrong = chosenIs.wrong(i);
  const text = [`image ${i}`, name[i], label[i] >= 0 ? className(label[i]) : "",
    isWrong || label[i] < 0 ? `model says ${className(prediction[i])}` : ""].filter(Boolean).join(", ");
  return make("button", {
    type: "button", "data-image": i, "aria-label": text, title: text, class: isWrong ? "wrong" : null,
    tabindex: -1, click: () => openImage(i),
  }, thumbnail(i));
}

function markCurrent() {
  const all = [...strip.querySelectorAll("button")];
  const here = all.find((node) => Number(node.dataset.image) === state.image);
  for (const node of all) {
    node.setAttribute("aria-current", node === here);
    node.setAttribute("tabindex", node === (here ?? all[0]) ? 0 : -1);
  }
  if (here) strip.scrollTop += here.getBoundingClientRect().top - strip.getBoundingClientRect().top - 40;
}

function openImage(i, isFar = false) {
  showImage(i);
  markCurrent();
  if (!isFar) return;
  byId("viewer").scrollIntoView();
  byId("image-title").focus({ preventScroll: true });
}

function columnsOf(all) {
  const top = all[0].offsetTop;
  const next = all.findIndex((node) => node.offsetTop > top);
  return next < 0 ? all.length : next;
}
