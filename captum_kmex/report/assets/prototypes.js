// The prototypes, class by class; a class is drawn when it is opened.

const gallery = { depth: 0 };
const groups = report.isFitted ? [...new Set(report.depths[0].owner)].sort((a, b) => a - b) : [];
const groupName = (group) => (report.isAgnostic ? "all prototypes" : className(group));

function renderPrototypes() {
  const list = byId("prototype-list");
  if (!hasSegments) {
    byId("prototypes").remove();
    document.querySelector("nav a[href='#prototypes']").remove();
    return;
  }
  if (!report.isFitted) {
    list.replaceChildren(make("p", {}, "This attribution is not fitted: segments are each image\u2019s own clusters. With prototypes, "
      + "this report also shows the training patches that segments resemble: call ", make("code", {}, "attribution.fit(loader)"), " first."));
    return;
  }
  const depths = report.depths.map((_, d) => [d, depthName(d)]);
  const tools = make("div", { class: "toolbar" });
  if (depths.length > 1) tools.append(choice("gallery-depth", "Prototypes of", depths, gallery.depth, showGallery));
  if (groups.length > 12) tools.append(classFinder());
  list.replaceChildren(tools, make("div", { class: "groups" }, ...groups.map(groupSection)));
}

function classFinder() {
  return make("label", { class: "field" }, make("span", {}, "Find a class"), make("input", {
    type: "search", id: "find-class",
    input: (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      for (const group of groups) byId(`section-${group}`).hidden = !groupName(group).toLowerCase().includes(wanted);
    },
  }));
}

function groupSection(group) {
  const [seen, right] = report.byClass[group] ?? [0, 0];
  const size = report.depths[gallery.depth].owner.filter((owner) => owner === group).length;
  const facts = report.isAgnostic ? [] : [seen ? `${count(seen, "image")}, model right on ${percent(right / seen)}` : "no images here"];
  const section = make("details", { id: `section-${group}`, class: "group" },
    make("summary", {}, make("span", { class: "name" }, groupName(group)),
      make("span", { class: "facts" }, [count(size, "prototype"), ...facts].join(" \u00b7 "))),
    make("div", { class: "cards" }));
  section.addEventListener("toggle", () => { if (section.open) fillSection(section, group); });
  return section;
}

function fillSection(section, group) {
  const cards = groupOf(group).depths[gallery.depth].map((prototype) => prototypeCard(gallery.depth, prototype));
  section.querySelector(".cards").replaceChildren(...cards);
}

function showGallery(depth) {
  gallery.depth = depth;
  for (const group of groups) {
    const section = byId(`section-${group}`);
    if (section.open) fillSection(section, group);
  }
}

function prototypeCard(depth, prototype) {
  const k = prototype.index;
  const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const facts = [
    fact("wins", `${percent(prototype.usage)} of all pixels, in ${count(prototype.images, "image")}`),
    fact(report.isAgnostic ? "largest class" : "purity", percent(prototype.purity)),
    fact("rows", `${prototype.rows.toLocaleString("en")}, radius ${fixed(prototype.radius, 2)}`),
  ];
  if (prototype.near) facts.push(fact("nearest other", `${prototypeName(depth, prototype.near[0])}, at ${fixed(prototype.near[1], 2)}`));
  if (prototype.classes) facts.push(fact("classes", prototype.classes.map(([c, share]) => `${className(c)} ${percent(share)}`).join(", ")));
  const users = prototype.best.map(([i, share]) => make("button", {
    type: "button", title: `image ${i}: ${percent(share)} of its pixels`,
    "aria-label": `open image ${i}, where it wins ${percent(share)}`, click: () => openUser(i, depth, k),
  }, thumbnail(i)));
  return make("article", { class: "card", id: `prototype-${depth}-${k}`, tabindex: -1 },
    make("h3", {}, prototypeName(depth, k)), patchRow(depth, k), make("dl", {}, ...facts),
    users.length ? make("div", { class: "users" }, make("span", {}, "most in"), ...users) : make("p", { class: "facts" }, "wins no pixel of these images"));
}

// Open an image at a prototype's depth, with the prototype's segment selected.
function openUser(i, depth, k) {
  state.depth = depth;
  openImage(i, true);
  select(atDepth(`${i}/${depth}`).prototypes.indexOf(k));
}

function revealPrototype(depth, k) {
  const group = report.depths[depth].owner[k], section = byId(`section-${group}`);
  gallery.depth = depth;
  for (const button of document.getElementsByName("gallery-depth")) button.checked = Number(button.value) === depth;
  showGallery(depth);
  section.hidden = false;
  section.open = true;
  fillSection(section, group);
  const card = byId(`prototype-${depth}-${k}`);
  card.scrollIntoView({ block: "center" });
  card.focus({ preventScroll: true });
}
