// What is seen of an image as one picture: title, picture with its overlay and numbers, account.

const SAVED = { side: 720, margin: 32, line: 30, account: 560, font: "system-ui, sans-serif" };

async function savePicture() {
  const link = make("a", { href: (await drawnView()).toDataURL("image/png"), download: `image-${state.image}.png` });
  link.click();
  say("saved as PNG");
}

async function drawnView() {
  const { side, margin, line, account } = SAVED, picture = stage.querySelector("img");
  await picture.decode();
  const scale = side / Math.max(picture.naturalWidth, picture.naturalHeight);
  const width = Math.round(picture.naturalWidth * scale), height = Math.round(picture.naturalHeight * scale);
  const lines = accountLines();
  const canvas = make("canvas", {
    width: width + account + 3 * margin, height: Math.max(height + 5 * line, (lines.length + 3) * line) + 2 * margin,
  });
  const pen = canvas.getContext("2d");
  Object.assign(pen, { fillStyle: "#ffffff", textBaseline: "middle" });
  pen.fillRect(0, 0, canvas.width, canvas.height);
  write(pen, byId("image-title").textContent, margin, margin + line / 2, width + account, `600 22px ${SAVED.font}`);
  write(pen, byId("verdict").innerText.replace(/\s+/g, " "), margin, margin + 1.5 * line, width + account);
  pen.save();
  pen.translate(margin, margin + 2.5 * line);
  drawStage(pen, picture, width, height);
  pen.restore();
  drawScale(pen, margin, margin + 2.5 * line + height + 12, width);
  lines.forEach((text, i) => drawLine(pen, text, width + 2 * margin, margin + (i + 3) * line, account));
  return canvas;
}

function write(pen, text, x, y, room, font = `16px ${SAVED.font}`, align = "left", ink = "#1d2126") {
  Object.assign(pen, { font, fillStyle: ink, textAlign: align });
  pen.fillText(text, x, y, room);
}

function drawStage(pen, picture, width, height) {
  const isMap = !["segments", "none"].includes(state.overlay);
  pen.imageSmoothingEnabled = true;
  pen.filter = isMap ? "grayscale(1)" : "none";
  pen.drawImage(picture, 0, 0, width, height);
  pen.filter = "none";
  if (state.overlay === "none") return;
  pen.imageSmoothingEnabled = false;
  pen.globalAlpha = state.opacity;
  pen.drawImage(stage.querySelector("canvas"), 0, 0, width, height);
  pen.globalAlpha = 1;
  for (const tag of state.overlay === "segments" ? stage.querySelectorAll(".tag") : []) {
    const x = (parseFloat(tag.style.left) / 100) * width, y = (parseFloat(tag.style.top) / 100) * height;
    pen.fillStyle = "rgb(255 255 255 / 0.86)";
    pen.beginPath();
    pen.arc(x, y, 14, 0, 2 * Math.PI);
    pen.fill();
    write(pen, tag.textContent, x, y, 24, `16px ${SAVED.font}`, "center");
  }
}

function drawScale(pen, x, y, width) {
  const bar = byId("scale").querySelector("canvas");
  if (!bar) return;
  pen.drawImage(bar, x, y, width, 12);
  const ends = [...byId("scale").querySelectorAll(".ends span")];
  ends.forEach((end, i) => {
    const share = i / (ends.length - 1);
    write(pen, end.textContent, x + share * width, y + 28, width, undefined, ["left", "center", "right"][Math.round(2 * share)]);
  });
  write(pen, byId("scale").querySelector("p").textContent, x, y + 54, width);
}

// The account as it is shown: number, name, value; the question above.
function accountLines() {
  const rows = [...byId("ledger").querySelectorAll("tbody tr, tfoot tr")].map((row) => ({
    rank: row.dataset.segment, name: (row.querySelector("th .row > span:last-child") ?? row.querySelector("th"))?.textContent ?? "",
    value: row.querySelector(".value")?.textContent ?? "",
  }));
  return [{ name: byId("ledger").querySelector("caption").textContent, value: "" }, ...rows];
}

function drawLine(pen, { rank, name, value }, x, y, room) {
  if (rank !== undefined) {
    pen.fillStyle = segmentColor(Number(rank));
    pen.fillRect(x, y - 11, 30, 22);
    write(pen, String(Number(rank) + 1), x + 15, y, 28, `600 15px ${SAVED.font}`, "center", contrastingInk(segmentColor(Number(rank))));
  }
  write(pen, name, x + (rank === undefined ? 0 : 40), y, room - (value ? 150 : 0));
  if (value) write(pen, value, x + room, y, 110, undefined, "right");
}
