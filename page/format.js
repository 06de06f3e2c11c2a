// Numbers, times and elements for people to read. Everything goes into the page as text, never as markup.

const COUNT = new Intl.NumberFormat("en");
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const count = (number) => COUNT.format(number);

// One decimal place below 10, none from there on.
function significant(value) {
  return value < 9.95 ? String(Number(value.toFixed(1))) : String(Math.round(value));
}

export function octets(number) {
  let unit = 0;
  while (number >= 999.5 && unit < UNITS.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${significant(number)} ${UNITS[unit]}`;
}

export const rate = (number) => `${octets(number)}/s`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.9995) {
    const milliseconds = seconds * 1000;
    return `${significant(milliseconds)} ms`;
  }
  const whole = Math.round(seconds);
  if (whole < 60) return `${significant(seconds)} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(minutes / 1440)} days`;
}

const two = (number) => String(number).padStart(2, "0");

// Moments are seconds since the epoch, shown in local time.
export function clock(moment) {
  const when = new Date(moment * 1000);
  return `${two(when.getHours())}:${two(when.getMinutes())}:${two(when.getSeconds())}`;
}

export function day(moment) {
  const when = new Date(moment * 1000);
  return `${when.getFullYear()}-${two(when.getMonth() + 1)}-${two(when.getDate())}`;
}

export const exact = (moment) => new Date(moment * 1000).toISOString();

// In pairs of digits, one per octet, as browsers and OpenSSL show it.
export function serial(hexadecimal) {
  const whole = hexadecimal.length % 2 ? `0${hexadecimal}` : hexadecimal;
  return whole.replace(/(..)(?=.)/g, "$1:");
}
