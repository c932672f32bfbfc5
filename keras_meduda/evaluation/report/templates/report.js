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
if (table) {
  const shown = new DataTable(table, { autoWidth: false, order: [], pageLength: 25, layout: { topStart: "search", topEnd: "pageLength" } });
  let page, length; // paper has no pages to turn: it shows every case
  addEventListener("beforeprint", () => {
    [page, length] = [shown.page(), shown.page.len()];
    shown.page.len(-1).draw();
  });
  addEventListener("afterprint", () => {
    shown.page.len(length).page(page).draw("page");
  });
}
