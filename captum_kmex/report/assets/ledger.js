// The ledger: from the bias, segment by segment, to the logit.

const SHOWN = 8;
const VISIBLE = 0.0005; // half of the last digit that is printed

function ledgerTable(sums, act) {
  const found = atDepth(`${state.image}/${state.depth}`);
  const shown = state.isExpanded || sums.order.length <= SHOWN + 1 ? sums.order : sums.order.slice(0, SHOWN);
  const rest = sums.order.slice(shown.length);
  const add = (parts) => parts.reduce((sum, s) => sum + sums.evidence[s], 0);
  const share = (parts) => parts.reduce((sum, s) => sum + found.area[s], 0);
  const lines = shown.map((s) => ({
    segment: s, value: sums.evidence[s], error: sums.errors?.[s], share: found.area[s], label: segmentButton(found, s, act),
  }));
  if (rest.length) {
    lines.push({ value: add(rest), share: share(rest), label: moreButton(`${count(rest.length, "other")}`, act.expand) });
  }
  const remainder = sums.output - sums.total;
  if (Math.abs(remainder) >= VISIBLE) lines.push({ value: remainder, share: null, label: "not in the map", kind: "remainder" });
  return make("table", { class: "ledger" },
    make("caption", {}, question(sums)),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, "Segment"),
      make("th", { scope: "col", class: "number" }, "Area"),
      make("th", { scope: "col", class: "number" }, "Evidence"),
      ...(sums.errors ? [make("th", { scope: "col", class: "number" }, "\u00b1")] : []),
      make("td", {}))),
    ledgerBody(lines, sums, state.isExpanded && sums.order.length > SHOWN + 1 ? act.expand : null),
    ledgerFoot(sums, remainder));
}

const asked = () => className(state.target) + (state.against === null ? "" : `, not ${className(state.against)}`);
const base = report.isMeasured ? "all removed" : "bias";
const parts = (sums) => (sums.notLinear === null ? base : `${base} + not linear`);
const question = (sums) =>
  `Why \u201c${asked()}\u201d: ${parts(sums)} + segments = ${state.against === null ? "logit" : "difference"} ${fixed(sums.output)}`;

function segmentButton(found, s, act) {
  const name = report.isFitted ? prototypeName(state.depth, found.prototypes[s]) : `segment ${s + 1}`;
  return make("button", {
    type: "button", class: "row", "data-segment": s, "aria-pressed": "false",
    click: () => act.select(s), focus: () => act.select(s),
  }, chip(s), make("span", { class: report.isFitted ? null : "numbered" }, name));
}

const moreButton = (text, act) => make("button", { type: "button", class: "more", click: act }, text);

function ledgerBody(lines, sums, collapse) {
  const all = [{ value: sums.bias, share: null, label: base, kind: "total" }];
  if (sums.notLinear !== null) all.push({ value: sums.notLinear, share: null, label: "not linear", kind: "remainder" });
  all.push(...lines);
  let level = 0;
  const steps = all.map((line) => [level, (level += line.value)]);
  const low = Math.min(0, ...steps.flat()), high = Math.max(0, ...steps.flat());
  const body = make("tbody", {});
  all.forEach((line, i) => {
    body.append(make("tr", { "data-segment": line.segment ?? null },
      make("th", { scope: "row" }, line.label),
      make("td", { class: "number" }, line.share === null ? "" : percent(line.share)),
      make("td", { class: "number value" }, signed(line.value)),
      ...(sums.errors ? [make("td", { class: "number" }, line.error === undefined ? "" : fixed(line.error))] : []),
      make("td", { class: isClear(line) ? "bar" : "bar unclear" }, bar(steps[i], low, high, line.kind))));
  });
  if (collapse) body.append(make("tr", {}, make("th", { scope: "row", colspan: 4 }, moreButton("show fewer", collapse))));
  return body;
}

// Whether measured evidence can be told from none, nine times in ten.
const isClear = ({ value, error }) => error === undefined || Math.abs(value) > 1.645 * error;

// The fewest segments that keep the class, and those without which it is another.
function fewestLines(sums, act) {
  if (!sums.fewest) return [];
  const chips = (ranks) => ranks.map((s) => make("button", {
    type: "button", class: "row", "data-segment": s, "aria-label": `segment ${s + 1}`, click: () => act.select(s),
  }, chip(s)));
  const line = (word, ranks, yes, no) => make("p", { class: "fewest", id: word }, make("b", {}, word), " ",
    ...(ranks === null ? [no] : [...chips(ranks), ` ${yes}`]));
  return [
    line("enough", sums.fewest.enough, "alone keep the class", "no number of segments keeps the class"),
    line("needed", sums.fewest.needed, "removed, it is another class", "the class stays when all is removed, or was another to begin with"),
  ];
}

function bar([from, to], low, high, kind) {
  const scale = 100 / (high - low || 1);
  const node = make("span", { class: kind ?? (to < from ? "against" : "for") });
  node.style.left = `${(Math.min(from, to) - low) * scale}%`;
  node.style.width = `max(1px, ${Math.abs(to - from) * scale}%)`;
  const zero = make("span", { class: "zero" });
  zero.style.left = `${-low * scale}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, zero, node);
}

function ledgerFoot(sums, remainder) {
  const line = (label, value, id) => make("tr", {},
    make("th", { scope: "row", colspan: 2 }, label), make("td", { class: "number value", id }, fixed(value)), make("td", { colspan: 2 }));
  const complete = Math.abs(remainder) < VISIBLE;
  return make("tfoot", {},
    line(complete ? `${parts(sums)} + all segments` : "all of the lines", complete ? sums.total : sums.total + remainder, "ledger-sum"),
    line(state.against === null ? "the model\u2019s logit" : "difference of the logits", sums.output, "ledger-output"));
}

// Where there are maps only: what the model says of each shown class.
function probabilityTable() {
  const image = imageOf(state.image);
  return make("table", { class: "ledger" },
    make("caption", {}, `Why \u201c${asked()}\u201d: the map of the method shown`),
    make("thead", {}, make("tr", {}, ...["Class", "Probability", "Logit"].map((name, i) => make("th", { scope: "col", class: i ? "number" : null }, name)), make("td", {}))),
    make("tbody", {}, ...image.targets.map((c, t) => make("tr", { class: c === state.target ? "active" : null },
      make("th", { scope: "row" }, className(c)),
      make("td", { class: "number" }, percent(image.probability[t])),
      make("td", { class: "number value" }, signed(image.output[t])),
      make("td", { class: "bar" }, bar([0, image.probability[t]], 0, 1, "total"))))));
}
