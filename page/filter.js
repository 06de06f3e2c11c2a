// Which rows to show: words that each must contain, "-word" that it must not, "key:word" for one of its values.

export function parse(text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const without = word.startsWith("-") && word.length > 1;
    const [, key, value] = /^([a-z_]+):(?!\/\/)(.+)$/.exec(without ? word.slice(1) : word) ?? [];
    return { without, key, word: key ? value : without ? word.slice(1) : word };
  });
}

const textOf = (value) => (value === null || value === undefined ? "" : String(value).toLowerCase());

// A row's text is made once: rows do not change, and those of open tunnels are replaced.
const texts = new WeakMap();

function wholeText(row) {
  let text = texts.get(row);
  if (text === undefined) {
    text = Object.entries(row)
      .filter(([key]) => key !== "key" && !key.endsWith("_fields"))
      .map(([, value]) => textOf(value))
      .join("\n");
    texts.set(row, text);
  }
  return text;
}

export function matches(terms, row) {
  return terms.every(({ without, key, word }) => {
    const known = key !== undefined && key in row;
    const text = known ? textOf(row[key]) : wholeText(row);
    return text.includes(known || key === undefined ? word : `${key}:${word}`) !== without;
  });
}
