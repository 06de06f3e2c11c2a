// What the tables show of a row, and all that is shown once it is opened.

import { clock, count, day, duration, element, exact, octets, serial } from "./format.js";

const START = { title: "Time", text: (row) => clock(row.started) };
const CLIENT = { title: "Client", text: (row) => row.client, kind: "minor" };
const RECEIVED = { title: "Received", text: (row) => octets(row.received), kind: "number" };
const SENT = { title: "Sent", text: (row) => octets(row.sent), kind: "number minor" };

const hostOf = (target) => (target ?? "").replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
const nameOf = (row) => row.sni ?? row.target ?? "–";
const isOpen = (row) => row.ended === null;
const lasted = (row, now) => (row.ended ?? now) - row.started;
const octetsIn = (number) => (number < 1000 ? octets(number) : `${octets(number)} (${count(number)})`);
const protocol = (version, alpn) => [version?.replace("TLSv", "TLS "), alpn].filter(Boolean).join(", ");

function nameNote(row) {
  if (row.kind === "request") return "plain HTTP";
  return row.sni && row.target && row.sni.toLowerCase() !== hostOf(row.target) ? `to ${row.target}` : "";
}

function outcomeTone(row) {
  if (row.refused) return "bad";
  if (row.outcome === "closed") return "";
  return isOpen(row) ? "good" : "warn";
}

// A button that shows other rows: those in a tab that match a filter.
function shows(title, tab, filter) {
  const button = element("button", { type: "button" }, title);
  button.addEventListener("click", () => {
    button.dispatchEvent(new CustomEvent("show", { bubbles: true, detail: { tab, filter } }));
  });
  return button;
}

// "now" returns the proxy's time.
export const tunnels = (now) => ({
  label: "Tunnels",
  columns: [
    START,
    CLIENT,
    { title: "Name", text: nameOf, small: nameNote, kind: "long" },
    { title: "Certificate", text: (row) => row.context ?? "", kind: "minor" },
    { title: "Protocol", text: (row) => protocol(row.client_tls, row.client_alpn), kind: "minor" },
    RECEIVED,
    SENT,
    { title: "Lasted", text: (row) => duration(lasted(row, now())), kind: "number minor" },
    { title: "Outcome", text: (row) => (isOpen(row) ? "● open" : row.outcome), tone: outcomeTone, kind: "last" },
  ],
  facts: (row) => [
    ["Began", exact(row.started)],
    ["Ended", isOpen(row) ? "not yet" : exact(row.ended)],
    ["Lasted", duration(lasted(row, now()))],
    ["Client", row.client],
    ["User", row.user],
    ["Target", row.target],
    ["Server name", row.sni],
    ["Certificate", row.context],
    ["TLS with the client", protocol(row.client_tls, row.client_alpn)],
    ["TLS with the origin", protocol(row.origin_tls, row.origin_alpn)],
    ["Received by the client", octetsIn(row.received)],
    ["Sent by the client", octetsIn(row.sent)],
    ["Status of our reply", row.status],
    ["Outcome", row.outcome],
    ["Refused by the rule", row.refused],
    ["Why", row.detail, true],
    ["Note", row.note, true],
    ["What passed", shows("Requests of this client's connection", "requests", `client:${row.client}`), true],
  ],
  empty: "No tunnel yet. Send a client here: the command is at the top of the page.",
});

function statusTone(row) {
  if (row.error || row.status === null || row.status >= 500) return "bad";
  return row.status >= 400 ? "warn" : "";
}

export const requests = () => ({
  label: "Requests",
  columns: [
    START,
    CLIENT,
    { title: "Method", text: (row) => row.method },
    { title: "URL", text: (row) => row.url, kind: "long" },
    { title: "Type", text: (row) => row.type, kind: "minor" },
    RECEIVED,
    SENT,
    { title: "First byte", text: (row) => duration(row.first), kind: "number minor" },
    { title: "Lasted", text: (row) => duration(lasted(row)), kind: "number minor" },
    { title: "Status", text: (row) => (row.error ? "✕ " : "") + (row.status ?? "none"), tone: statusTone, kind: "last" },
  ],
  facts: (row) => [
    ["URL", row.url, true],
    ["Began", exact(row.started)],
    ["First byte after", duration(row.first)],
    ["Ended after", duration(lasted(row))],
    ["Client", row.client],
    ["Origin", row.origin],
    ["HTTP version", row.version],
    ["Status", [row.status ?? "none", row.reason].filter(Boolean).join(" ")],
    ["Content type", row.type],
    ["Content received", octetsIn(row.received)],
    ["Content sent", octetsIn(row.sent)],
    ["Upgraded to", row.upgrade],
    ["Pushed", row.pushed ? "yes" : ""],
    ["Broken off", row.error],
  ],
  empty: "No request yet. They are read in tunnels that begin while somebody looks at this page, or where requests are logged.",
});

export const refusals = (now) => ({
  ...tunnels(now),
  label: "Refusals",
  columns: [
    START,
    { title: "Rule", text: (row) => row.refused, tone: () => "bad" },
    { ...CLIENT, kind: "" },
    { title: "Name", text: nameOf, kind: "long" },
    { title: "Why", text: (row) => row.note ?? row.detail ?? "", kind: "long minor" },
  ],
  empty: "Nothing was refused, and no client has refused a certificate.",
});

export const held = (now) => ({
  label: "Certificates in memory",
  columns: [
    { title: "Last used", text: (row) => clock(row.used) },
    { title: "Name", text: (row) => row.name, kind: "long" },
    { title: "Serial", text: (row) => row.serial, kind: "mono minor" },
    { title: "Valid until", text: (row) => day(row.not_after), kind: "" },
    { title: "From", text: (row) => row.source, small: (row) => (row.ours ? "" : "operator's"), kind: "last" },
  ],
  facts: (row) => [
    ["Name", row.name],
    ["Serial number", serial(row.serial)],
    ["Valid until", exact(row.not_after)],
    ["Last used", `${exact(row.used)}, ${duration(Math.max(0, now() - row.used))} ago`],
    ["Came from", row.source],
    ["Made by", row.ours ? "certifier" : "an operator"],
  ],
  empty: "No certificate is in memory yet.",
});

export const learned = () => ({
  label: "Bypasses learned",
  columns: [
    { title: "Client", text: (row) => row.client },
    { title: "Name", text: (row) => row.name, kind: "long" },
    { title: "For", text: (row) => duration(row.seconds), kind: "last" },
  ],
  facts: () => [["What it means", "This client refused the certificate so often that its tunnels for the name pass untouched."]],
  empty: "No bypass has been learned.",
});
