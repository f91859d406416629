// What was printed goes on in the next line. Only what is set in columns, or is source, keeps its lines: it is set smaller
// if it fits then, and else scrolls.
addEventListener("DOMContentLoaded", () => {
  for (const pre of document.querySelectorAll(".cell_output pre")) {
    const lines = pre.textContent.split("\n").filter((line) => line.trim());
    const laid = lines.filter((line) => /\S {2,}\S|^ {4}/.test(line));
    if (lines.length < 2 || 2 * laid.length < lines.length) continue;
    pre.classList.add("kd-laid-out");
    pre.style.setProperty("--columns", Math.max(...lines.map((line) => line.length)));
  }
});
// What is wider than its column scrolls, so the keyboard must be able to reach it.
addEventListener("DOMContentLoaded", () => {
  const reachable = () => {
    for (const box of document.querySelectorAll("pre, .table-wrapper, .math.notranslate, .cell_output .output")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX !== "visible";
      if (scrolls) box.tabIndex = 0;
      else if (box.tabIndex === 0) box.removeAttribute("tabindex");
    }
    // A formula in a line breaks nowhere: one that is wider than its column scrolls, too.
    for (const formula of document.querySelectorAll("span.math")) {
      formula.classList.remove("kd-long");
      const column = formula.closest("p, li, td, dd, blockquote, article"), drawn = formula.firstElementChild;
      const long = Boolean(column && drawn) && drawn.getBoundingClientRect().width > column.clientWidth;
      formula.classList.toggle("kd-long", long);
      if (long) formula.tabIndex = 0;
      else formula.removeAttribute("tabindex");
    }
  };
  addEventListener("load", () => { reachable(); window.MathJax?.startup?.promise?.then(reachable); });
  addEventListener("resize", reachable);
});

// Search results show a piece of a page's text: the source of a formula is none that anybody reads.
addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const textOf = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const parsed = new DOMParser().parseFromString(page, "text/html");
    for (const formula of parsed.querySelectorAll(".math")) formula.replaceWith("…");
    return textOf(parsed.documentElement.outerHTML, anchor);
  };
});
