// Step 1: choosing, dropping or pasting files, and how each is read.

import { live } from "../vendor/lit-html/directives/live.js"
import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { download } from "../client.js"
import * as format from "../format.js"
import { icon } from "../parts.js"
import { DELIMITERS, ENCODINGS } from "./preview.js"

const PASTED_MAX = 1024 * 1024
// converting keeps the whole file in the browser
const CONVERTED_MAX = 256 * 1024 * 1024

export function fileSummary({ entries }) {
  if (entries.length !== 1) return format.count(entries.length, "file")
  const [{ file, resource, preview }] = entries
  return `${file.name} · ${resource} · ${kind(preview)} · ${format.bytes(file.size)}`
}

function kind(preview) {
  const name = { csv: "CSV", ndjson: "NDJSON", json: "JSON array", xlsx: "XLSX" }[preview.format]
  return preview.compression ? `${name}, ${preview.compression}` : name
}

export function fileStep(page) {
  const { draft } = page
  return html`
    ${
      draft.entries.length
        ? html`<ul class="picked">
              ${draft.entries.map((entry, n) => fileRow(page, entry, n))}
            </ul>
            ${
              draft.entries.length > 1
                ? html`<p class="hint">They are stored in this order: records come after those that they refer to.</p>`
                : nothing
            }`
        : nothing
    }
    ${dropZone(page)} ${pasting(page)}
    ${
      draft.entries.length
        ? nothing
        : html`<p class="row small muted">
            Template files:
            ${draft.resources.map(
              ({ name, links }) =>
                html`<button type="button" class="quiet" @click=${() => page.attempt(() => download(links.template))}>
                  ${icon("download")} ${name}.csv
                </button>`,
            )}
          </p>`
    }
  `
}

function dropZone(page) {
  const isFirst = !page.draft.entries.length
  return html`<div class="drop ${isFirst ? "" : "small-drop"}">
    ${isFirst ? html`${icon("upload")}<strong>Drop files here, or anywhere in the window</strong>` : nothing}
    <button
      type="button"
      class=${isFirst ? "primary" : ""}
      @click=${(event) => event.target.closest(".drop").querySelector("input").click()}
    >
      ${isFirst ? "Choose files" : html`${icon("plus")} Add files`}
    </button>
    <input type="file" multiple hidden @change=${(event) => page.take([...event.target.files], event.target)} />
    ${isFirst ? html`<span class="muted small">CSV, NDJSON or a JSON array in UTF-8; also as gzip or zstd; XLSX</span>` : nothing}
  </div>`
}

function pasting(page) {
  const paste = () => {
    const area = document.querySelector("#pasted")
    const text = area.value
    const size = new Blob([text]).size
    page.pasteFault = !text.trim()
      ? "Paste a header and some rows, or JSON objects."
      : size > PASTED_MAX
        ? "At most 1 MiB can be pasted: choose a file instead."
        : null
    if (page.pasteFault) return page.update()
    area.value = ""
    return page.take([new File([text], "pasted.txt")])
  }
  return html`<details class="paste" ?open=${page.pasteFault !== null}>
    <summary>Paste records instead</summary>
    <div class="field">
      <label for="pasted">Records</label>
      <textarea
        id="pasted"
        class="value mono"
        rows="6"
        spellcheck="false"
        placeholder="email,name,role,active"
        aria-invalid=${page.pasteFault ? "true" : nothing}
        aria-describedby=${page.pasteFault ? "paste-fault" : nothing}
      ></textarea>
      ${page.pasteFault ? html`<p id="paste-fault" class="field-error">${icon("alert")} ${page.pasteFault}</p>` : nothing}
      <div class="row"><button type="button" @click=${paste}>Use these records</button></div>
    </div>
  </details>`
}

function fileRow(page, entry, n) {
  const { draft } = page
  const { file, preview } = entry
  const change = (changes) => {
    entry.chosen = { ...entry.chosen, ...changes }
    return draft.read(entry)
  }
  return html`<li class="picked-file">
    <div class="picked-name">
      ${icon("file")}
      <b>${file.name}</b>
      <span class="muted small nowrap">${format.bytes(file.size)}${preview.compression ? `, ${preview.compression}` : ""}</span>
      <button
        type="button"
        class="quiet icon-only"
        aria-label=${`Remove ${file.name}`}
        title="Remove"
        @click=${() => draft.remove(entry)}
      >
        ${icon("close")}
      </button>
    </div>
    ${preview.fault && preview.columns === null ? nothing : fields(draft, entry, n, change)}
    ${preview.fault ? fault(page, entry, n, change) : found(entry)}
  </li>`
}

function fields(draft, entry, n, change) {
  const { preview } = entry
  return html`<div class="picked-fields" role="group" aria-label=${`How ${entry.file.name} is read`}>
    ${select(
      `resource-${n}`,
      "Resource",
      draft.resources.map(({ name }) => [name, name]),
      entry.resource,
      entry.fault("resource"),
      (value) => {
        entry.resource = value
        draft.map(entry)
        draft.sort()
      },
    )}
    ${select(
      `format-${n}`,
      "Format",
      [
        ["csv", "CSV"],
        ["ndjson", "NDJSON"],
        ["json", "JSON array"],
        ["xlsx", "XLSX"],
      ],
      preview.format,
      entry.fault("format") ?? entry.fault("file"),
      (value) => change({ format: value }),
    )}
    ${
      preview.format === "csv"
        ? select(
            `delimiter-${n}`,
            "Delimiter",
            DELIMITERS.map(([character, name]) => [character, character === "\t" ? name : `${character} ${name}`]),
            preview.delimiter,
            entry.fault("csv_delimiter"),
            (value) => change({ delimiter: value }),
          )
        : nothing
    }
  </div>`
}

/** A select with its label, and the message of a 400 about it. */
export function select(id, label, options, value, fault, choose) {
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <select
      id=${id}
      aria-invalid=${fault ? "true" : nothing}
      aria-describedby=${fault ? `${id}-fault` : nothing}
      @change=${(event) => choose(event.target.value)}
    >
      ${options.map(([name, text]) => html`<option value=${name} .selected=${live(name === value)}>${text}</option>`)}
    </select>
    ${fault ? html`<p id=${`${id}-fault`} class="field-error">${icon("alert")} ${fault}</p>` : nothing}
  </div>`
}

function found({ preview }) {
  if (preview.format === "xlsx")
    return html`<p class="hint">Its first sheet is imported. The columns must have the names of the fields.</p>`
  if (preview.columns === null)
    return html`<p class="hint">The browser cannot look into zstd. The columns must have the names of the fields.</p>`
  if (!preview.columns.length) return html`<p class="hint">The file has no records in its beginning.</p>`
  const noun = preview.format === "csv" ? "column" : "key"
  return html`<p class="hint">${format.count(preview.columns.length, noun)}: ${names(preview)}</p>`
}

function names({ columns }) {
  return html`<span class="names">${columns.map(({ name }) => name).join(", ")}</span>`
}

function fault(page, entry, n, change) {
  const { preview, file, chosen } = entry
  const isConvertible = preview.encoding !== "utf-8" && !preview.compression && file.size <= CONVERTED_MAX
  return html`<div class="notice warn">
    ${icon("alert")}
    <div>
      <strong>${preview.fault.heading}</strong>
      <p>${preview.fault.text}</p>
      ${
        isConvertible
          ? html`<div class="row">
              ${
                preview.encoding === ""
                  ? html`<label class="offscreen" for=${`encoding-${n}`}>Encoding</label>
                      <select id=${`encoding-${n}`} @change=${(event) => change({ encoding: event.target.value })}>
                        ${ENCODINGS.map(
                          ([name, text]) =>
                            html`<option value=${name} .selected=${live(name === (chosen.encoding ?? ENCODINGS[0][0]))}>
                              ${text}
                            </option>`,
                        )}
                      </select>`
                  : nothing
              }
              <button type="button" @click=${() => page.convert(entry)}>Convert to UTF-8</button>
            </div>`
          : nothing
      }
      ${preview.columns?.length ? html`<p class="small">Names: ${names(preview)}</p>` : nothing}
    </div>
  </div>`
}
