// What the proxy reports once a second: received as server-sent events while the page is visible, kept within bounds.

const MOST_ROWS = 300;
const HISTORY_SECONDS = 300;
const AHEAD = 2; // a worker's clock may be a little later; samples later than that, a clock that was set back has left
const SOONEST = 1000; // milliseconds before the first retry
const LATEST = 15000;
const SILENT = 5000; // without an event; one is due each second, but a dead machine or network closes no connection
const FIRST = 30000; // the same before the first event, which has all that is kept: a megabyte, maybe over a slow line

export class Live {
  // "changed" is called after each event, "linked" with the state: live, waiting or off.
  constructor(changed, linked) {
    this.now = 0;
    this.snapshot = null;
    this.before = null;
    this.history = [];
    this.rows = { tunnels: new Map(), requests: new Map(), refusals: new Map() };
    this.changed = changed;
    this.linked = linked;
    this.cursor = "";
    this.delay = SOONEST;
    this.source = null;
    document.addEventListener("visibilitychange", () => this.look());
    this.look();
  }

  // A hidden page asks for nothing.
  look() {
    clearTimeout(this.timer);
    if (document.hidden) {
      clearTimeout(this.silence);
      this.source?.close();
      this.source = null;
    } else if (this.source === null) {
      this.connect();
    }
  }

  connect() {
    this.linked("waiting");
    // Not relative: the page's own URL may contain a name and password, which such requests must not.
    const source = new EventSource(`${location.origin}/events?since=${this.cursor}`);
    this.source = source;
    const lost = () => {
      source.close();
      if (this.source !== source) return;
      clearTimeout(this.silence);
      this.source = null;
      this.linked("off");
      this.timer = setTimeout(() => this.look(), this.delay);
      this.delay = Math.min(this.delay * 2, LATEST);
    };
    const wait = (most) => {
      clearTimeout(this.silence);
      this.silence = setTimeout(lost, most);
    };
    wait(FIRST);
    source.addEventListener("message", (event) => {
      wait(SILENT);
      this.cursor = event.lastEventId;
      this.delay = SOONEST;
      this.take(JSON.parse(event.data));
      this.linked("live");
    });
    source.addEventListener("error", lost);
  }

  take(snapshot) {
    this.before = this.snapshot;
    this.snapshot = snapshot;
    this.now = snapshot.now;
    const samples = new Map(this.history.map((sample) => [sample.at, sample]));
    for (const sample of snapshot.history) samples.set(sample.at, sample);
    this.history = [...samples.values()]
      .filter((sample) => sample.at > snapshot.now - HISTORY_SECONDS && sample.at < snapshot.now + AHEAD)
      .sort((one, other) => one.at - other.at);
    for (const [kind, rows] of Object.entries(this.rows)) {
      for (const row of snapshot[kind]) rows.set(row.key, row);
      for (const key of rows.keys()) {
        if (rows.size <= MOST_ROWS) break;
        rows.delete(key);
      }
    }
    this.changed(this);
  }

  // Latest first; open tunnels are listed along with those that ended.
  latest(kind) {
    const rows = [...this.rows[kind].values()];
    if (kind === "tunnels") {
      rows.push(...this.snapshot.open.filter((row) => !this.rows.tunnels.has(row.key)));
      rows.sort((one, other) => one.started - other.started);
    }
    return rows.reverse();
  }

  sample() {
    return this.history.at(-1);
  }
}
