// Which images to see: a strip of pictures, filtered by what went wrong, class and name, and sorted.

const strip = byId("strip");
const view = { kind: "all", class: "", order: "given", words: "" };
let shownImages = Array.from({ length: nImages }, (_, i) => i);
const sureness = (i) => report.verdicts.confidence[i];
const orders = {
  given: ["as given", () => 0],
  name: ["by name", (a, b) => report.verdicts.name[a].localeCompare(report.verdicts.name[b], undefined, { numeric: true })],
  unsure: ["least sure first", (a, b) => sureness(a) - sureness(b)],
  sure: ["surest first", (a, b) => sureness(b) - sureness(a)],
};
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
    make("label", { class: "field" }, make("span", {}, "Find"), make("input", {
      type: "search", id: "find-image", placeholder: "name, class or number", input: (event) => { view.words = event.target.value; renderStrip(); },
    })),
    make("label", { class: "field" }, make("span", {}, "Sort"), make("select", {
      id: "sort-images", change: (event) => { view.order = event.target.value; renderStrip(); },
    }, ...Object.entries(orders).filter(([value]) => value !== "name" || report.verdicts.name.some(Boolean))
      .map(([value, [name]]) => make("option", { value }, name)))),
    ...(classes.length > 1 ? [make("label", { class: "field" }, make("span", {}, report.labelled ? "True class" : "Class"), field)] : []));
}

function renderStrip() {
  shownImages = Array.from({ length: nImages }, (_, i) => i).filter((i) =>
    chosenIs[view.kind](i) && (view.class === "" || classOf(i) === Number(view.class)) && isFound(i))
    .sort(orders[view.order][1]);
  strip.replaceChildren(...shownImages.map(stripButton));
  byId("shown").textContent = shownImages.length < nImages ? `${shownImages.length} of ${count(nImages, "image")}` : count(nImages, "image");
  renderSteps();
  if (!shownImages.length) strip.append(make("p", {}, "None of the images."));
  markCurrent();
}

// Whether what is looked for stands in an image's name or classes, or is its number.
function isFound(i) {
  const { label, prediction, name } = report.verdicts, wanted = view.words.trim().toLowerCase();
  const told = [name[i], className(prediction[i]), label[i] >= 0 ? className(label[i]) : ""];
  return wanted === String(i) || told.some((text) => text.toLowerCase().includes(wanted));
}

function stripButton(i) {
  const { label, prediction, name } = report.verdicts;
  const isWrong = chosenIs.wrong(i);
  const text = [`image ${i}`, name[i], label[i] >= 0 ? className(label[i]) : "",
    isWrong || label[i] < 0 ? `model says ${className(prediction[i])}` : "", percent(sureness(i))].filter(Boolean).join(", ");
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
  if (!isFar) {
    if (byId("viewer").getBoundingClientRect().bottom < 0) byId("viewer").scrollIntoView();
    return;
  }
  byId("viewer").scrollIntoView();
  byId("image-title").focus({ preventScroll: true });
}

function columnsOf(all) {
  const top = all[0].offsetTop;
  const next = all.findIndex((node) => node.offsetTop > top);
  return next < 0 ? all.length : next;
}
