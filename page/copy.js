// A copy button beside every command. Without a clipboard (over http:// to another machine), the text is selected.

import { element } from "./format.js";

function select(source) {
  const selection = getSelection();
  selection.removeAllRanges();
  const range = document.createRange();
  range.selectNodeContents(source);
  selection.addRange(range);
}

async function copy(source, button) {
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    select(source);
    done = "Selected";
  }
  button.textContent = done;
  button.title = done === "Selected" ? "Copy it with Ctrl+C or ⌘C" : "";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2000);
}

export function addButtons(root) {
  for (const source of root.querySelectorAll("pre > code, [data-copy]")) {
    const whole = source.closest("pre") ?? source;
    const button = element("button", { type: "button", "aria-live": "polite" }, "Copy");
    button.addEventListener("click", () => copy(source, button));
    const box = element("div", { class: "copyable" });
    whole.replaceWith(box);
    box.append(whole, button);
  }
}
