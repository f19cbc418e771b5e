// What Gradio's page lacks: pictures from the clipboard and dropped anywhere, and verdicts that are read out.
() => {
  const results = document.getElementById("results");
  results.setAttribute("aria-live", "polite");
  results.setAttribute("aria-label", "Verdicts");
  results.setAttribute("role", "region");

  const hand_over = (files) => {
    const input = document.querySelector("#upload input[type=file]");
    if (!input || files.length === 0) return false;
    const carrier = new DataTransfer();
    for (const file of files) carrier.items.add(file);
    input.files = carrier.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  };
  document.addEventListener("paste", (event) => {
    if (hand_over(event.clipboardData.files)) event.preventDefault();
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (event.target.closest("#upload")) return;
    event.preventDefault();
    hand_over(event.dataTransfer.files);
  });
}
