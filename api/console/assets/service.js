// The state of the service: checks as sentences, the queue, the limits in force.

import { html } from "./vendor/lit-html/lit-html.js"
import { asCurl, get } from "./client.js"
import * as format from "./format.js"
import { Page } from "./page.js"
import { command, curl, failure, icon, loading, stale } from "./parts.js"

const CHECKS = {
  database: ["The database answers and accepts changes", "The database"],
  migrations: ["The tables are up to date", "The tables"],
  workers: ["Workers are connected", "The workers"],
  storage: ["The folder of the exports can be written", "The folder of the exports"],
}

const LIMITS = [
  ["upload_max_bytes", "Size of a file, unpacked", format.binary],
  ["record_max_bytes", "Size of a record", format.binary],
  ["json_body_max_bytes", "Size of a request with records in a JSON object", format.binary],
  ["uploads_max", "Uploads at the same time, for one process", format.number],
  ["queue_jobs_max", "Imports that are not final", format.number],
  ["queue_bytes_max", "Bytes of their files", format.binary],
  ["export_jobs_max", "Exports that are not final", format.number],
  ["streams_max", "Streaming exports at the same time, for one process", format.number],
  ["record_errors_max", "Errors reported for a record", format.number],
  ["import_errors_max", "Errors stored for an import", format.number],
  ["batch_size", "Records in a chunk", format.number],
  ["job_retention_seconds", "A final import is kept for", format.duration],
  ["export_retention_seconds", "The file of an export is kept for", format.duration],
  ["ticket_seconds", "A download ticket is valid for", format.duration],
]

export default class ServicePage extends Page {
  /** The response of GET /service; null until it is loaded. */
  service = null

  get title() {
    return "Service"
  }

  open() {
    this.poll(async () => {
      this.service = await get("/api/v1/service", {}, this)
      return 3
    })
  }

  render() {
    if (this.service === null) return this.problem ? failure(this.problem) : loading()
    const { checks, queue, limits, version, uptime_seconds: uptime, key } = this.service
    return html`
      <div class="head">
        <h1>Service</h1>
        <a class="button" href="/docs" target="_blank">${icon("open")} API reference</a>
        <p class="sub">
          Version ${version}, running for ${format.duration(uptime)}.
          ${key
            ? html`Your key ${key.name ? html`is <b>${key.name}</b> and ` : ""}may ${key.role === "read" ? "only read" : "read and change"}.`
            : "It needs no key."}
        </p>
      </div>
      <div class="stack">
        ${stale(this)}
        <div class="halves">
          <section class="card" aria-labelledby="checks">
            <h2 id="checks">Checks</h2>
            <ul class="checks">
              ${Object.entries(checks).map(([name, check]) => checkLine(name, check))}
            </ul>
          </section>
          <section class="card" aria-labelledby="queue">
            <h2 id="queue">Queue</h2>
            ${queue ? this.#queue(queue) : html`<p class="muted">Not known while the database does not answer.</p>`}
          </section>
        </div>
        <section class="card flush" aria-labelledby="limits">
          <header><h2 id="limits">Limits</h2></header>
          <table class="limits">
            <caption class="offscreen">
              Limits in force
            </caption>
            <thead>
              <tr>
                <th scope="col">Limit</th>
                <th scope="col" class="number">Value</th>
                <th scope="col" class="hide-narrow">Setting</th>
              </tr>
            </thead>
            <tbody>
              ${LIMITS.map(
                ([name, label, show]) => html`<tr>
                  <th scope="row">${label}</th>
                  <td class="number">${show(limits[name])}</td>
                  <td class="hide-narrow"><code>${name.toUpperCase()}</code></td>
                </tr>`,
              )}
            </tbody>
          </table>
        </section>
        <section class="card" aria-labelledby="command">
          <h2 id="command">At a terminal</h2>
          <p class="muted">The command <code>bulk</code> of this version is one file that needs Python 3.11 or newer.</p>
          <div class="note">
            ${command(`curl -O ${location.origin}/bulk.pyz && BULK_URL=${location.origin} python3 bulk.pyz import users.csv -r users`)}
          </div>
        </section>
        <p class="muted small">
          Documents: <a href="/docs/guide">HTTP reference</a>, <a href="/docs/guide/monitoring">monitoring</a>,
          <a href="/docs/guide/db">the database</a>. Metrics for Prometheus are at <code>/metrics</code>.
        </p>
        ${curl(asCurl("GET", "/api/v1/service"))}
      </div>
    `
  }

  #queue(queue) {
    const tile = (value, label) => html`<div class="tile"><b>${value}</b><span>${label}</span></div>`
    const left = Object.values(queue.records_left).reduce((sum, n) => sum + n, 0)
    return html`<div class="tiles">
      ${tile(queue.workers === null ? "–" : format.number(queue.workers), "workers connected")}
      ${tile(format.number(queue.imports_running), "imports running")} ${tile(format.number(queue.imports_waiting), "imports waiting")}
      ${tile(format.number(queue.imports_uploading), "uploads arriving")} ${tile(format.number(queue.exports_running), "exports running")}
      ${tile(format.number(queue.exports_waiting), "exports waiting")} ${tile(format.short(left), "records left")}
      ${tile(format.duration(queue.oldest_seconds), "oldest waiting chunk")}
    </div>`
  }
}

function checkLine(name, check) {
  const [sentence, subject] = CHECKS[name] ?? [name, name]
  const tones = { ok: ["good", "check"], warning: ["warn", "alert"], failed: ["bad", "alert"], unknown: ["neutral", "info"] }
  const [tone, sign] = tones[check.status]
  const text = check.status === "ok" ? `${sentence}.` : check.status === "unknown" ? `${subject}: could not be checked.` : `${subject}: ${check.detail}.`
  return html`<li class=${tone}>${icon(sign)}<span>${text}${check.status === "ok" && check.detail ? ` (${check.detail})` : ""}</span></li>`
}
