for (const slider of document.querySelectorAll("input[type=range]")) {
  const texts = JSON.parse(slider.dataset.texts ?? "null");
  const output = slider.parentElement.querySelector(`output[for="${slider.id}"]`);
  const show = () => {
    const text = texts ? texts[slider.value] : `${slider.value} %`;
    slider.closest("article").style.setProperty(slider.dataset.sets, slider.value);
    slider.setAttribute("aria-valuetext", text);
    if (output) output.value = text;
  };
  slider.addEventListener("input", show);
  show();
}
const table = document.getElementById("case-table");
if (table) new DataTable(table, { autoWidth: false, order: [], pageLength: 25, layout: { topStart: "search", topEnd: "pageLength" } });
