// The facts about a photo, and a preview of what training will see of it.

function showFacts(photo) {
  part("name").textContent = photo?.name ?? "";
  part("status").textContent = photo ? LABELS[photo.status] || photo.status : "";
  part("status").classList.toggle("uncertain", UNCERTAIN.includes(photo?.status));
  const facts = !photo ? [] : [
    ["Score", photo.score != null && Math.min(photo.score, 1).toFixed(3)], ["Presence", photo.presence && `${photo.presence}, ${percent(photo)}`],
    ["Reason", photo.reason], ["Size", page.size && `${page.size.width} × ${page.size.height}`],
    ["Note", (photo.warnings || []).join(" ")], ["Left out", photo.error],
  ];
  part("facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = name;
    words.textContent = value;
    return [term, words];
  }));
  for (const id of ["approve", "exclude", "refer"]) part(id).disabled = !photo?.has_mask;
  if (photo?.status === "changed") part("exclude").disabled = false;
  part("approve").classList.toggle("on", photo?.status === "approved");
  part("undo").disabled = !photo?.can_undo;
  part("refer").firstChild.textContent = photo?.status === "reference" ? "Stop using as reference " : "Use as another reference ";
}

async function showTraining() {
  const photo = photoOf(page.current), picture = part("latent");
  if (!photo?.has_mask) {
    picture.removeAttribute("src");
    part("latent-words").textContent = "Shown once there is a mask.";
    return;
  }
  const view = {
    resolution: Number(part("resolution").value), cell: Number(part("cell").value),
    mask_downsample: part("downsample").value, center_crop: part("center").value === "1", seed: page.crop,
  };
  const answer = await ask("training", { photo: photo.name, view });
  if (page.current !== photo.name) return;
  if (answer.error) picture.removeAttribute("src");
  else picture.src = answer.picture;
  part("latent-words").textContent = answer.error ?? answer.words;
}
