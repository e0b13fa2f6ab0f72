// The imports that are being prepared: their files, mappings and options, and their state.

import { credentials, get, post, Problem, remove } from "../client.js"
import { isFinal } from "../parts.js"
import * as columns from "./columns.js"
import * as preview from "./preview.js"
import { Sending } from "./sending.js"

export const STEPS = ["File", "Columns", "Check", "Store"]
const [FILE, COLUMNS, CHECK, STORE] = [1, 2, 3, 4]

const OPTIONS = {
  mode: "insert",
  max_errors: "",
  max_error_percent: "",
  stop: false,
  after: "",
  ignore_unknown: false,
  csv_safe: false,
  undoable: false,
}

/** One file, which becomes one import. */
export class Entry {
  /** @type {preview.Preview | null} */
  preview = null
  /** The user's choices for reading the file. */
  chosen = {}
  resource = null
  /** @type {columns.Column[]} */
  columns = []
  /** @type {Sending | null} */
  sending = null
  /** The dry run, and the parameters that it was sent with. */
  check = null
  checkedWith = null
  /** The real import. */
  stored = null
  isThrownAway = false
  /** A request about it is not answered yet. */
  isWaiting = false
  isFollowed = false
  /** Why the last request failed, or null. */
  problem = null

  constructor(file) {
    this.file = file
  }

  get job() {
    return this.stored ?? this.check
  }

  get isBusy() {
    return this.isWaiting || this.sending !== null || (this.job !== null && !isFinal(this.job) && !this.isThrownAway)
  }

  /** Whether the entry is finished. */
  get isOver() {
    return this.isThrownAway || (this.stored !== null && isFinal(this.stored))
  }

  /** The message of the last response about a field. */
  fault(field) {
    return this.problem?.errors?.find((error) => error.field === field)?.message ?? null
  }
}

export class Draft {
  /** @type {Entry[]} in the order in which they are stored */
  entries = []
  options = { ...OPTIONS }
  step = FILE
  /** The owner: with another key the draft is not shown. */
  key = credentials.key
  /** The resource that the user came from, if any. */
  preferred = null
  /** The resources as the API describes them, in the order in which they refer to each other. */
  resources = []
  /** Called after every change, with a sentence for screen readers at milestones. */
  onchange = () => {}
  #isChecking = false

  async add(files) {
    const added = files.map((file) => new Entry(file))
    await Promise.all(added.map((entry) => this.read(entry)))
    this.entries.push(...added)
    this.sort()
  }

  /** Reads the beginning of the file, and guesses its resource, unless that is known, and its columns. */
  async read(entry) {
    entry.preview = await preview.read(entry.file, entry.chosen)
    entry.resource ??= this.guessResource(entry)
    this.map(entry)
  }

  map(entry) {
    entry.columns = columns.guess(entry.preview.columns ?? [], this.resource(entry))
    this.onchange()
  }

  resource(entry) {
    return this.resources.find(({ name }) => name === entry.resource)
  }

  /** The resource most of whose required fields are columns; the name of the file counts, and where the user came from. */
  guessResource(entry) {
    const file = entry.file.name.toLowerCase()
    const score = (resource) => {
      const found = columns.guess(entry.preview.columns ?? [], resource)
      const required = resource.fields.filter((field) => field.required).length
      const share = found.length ? 1 - columns.missing(found, resource).length / required : 0
      return share + (resource.name === this.preferred ? 0.75 : 0) + (file.includes(resource.name.replace(/s$/, "")) ? 0.5 : 0)
    }
    return this.resources.reduce((best, resource) => (score(resource) > score(best) ? resource : best)).name
  }

  /** Records come after those that they refer to. */
  sort() {
    const position = ({ resource }) => this.resources.findIndex(({ name }) => name === resource)
    this.entries.sort((one, other) => position(one) - position(other))
    this.onchange()
  }

  remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry)
    this.onchange()
  }

  async convert(entry) {
    entry.file = await preview.recode(entry.file, entry.preview.encoding || entry.chosen.encoding || preview.ENCODINGS[0][0])
    entry.chosen = { ...entry.chosen, encoding: undefined }
    await this.read(entry)
  }

  /** The reasons why the next step is not possible, as sentences. */
  get obstacles() {
    if (this.step === FILE) {
      const faulty = this.entries.filter(({ preview }) => preview.fault).map(({ file }) => file.name)
      return faulty.length ? [`Convert or remove ${faulty.join(", ")} first.`] : []
    }
    if (this.step !== COLUMNS) return []
    return this.entries.flatMap((entry) => {
      // the keys of JSON objects that come later are not known here
      if (entry.preview.format !== "csv" || entry.preview.columns === null) return []
      const names = columns.missing(entry.columns, this.resource(entry))
      return names.length ? [`${entry.file.name}: no column is ${names.join(", ")}.`] : []
    })
  }

  goTo(step) {
    this.step = step
    this.onchange()
  }

  /** The parameters of the import. Options that are not set are left out. */
  parameters(entry, { isDryRun, after = this.options.after }) {
    const { mode, max_errors, max_error_percent, stop, ignore_unknown, csv_safe, undoable } = this.options
    const isCsv = entry.preview.format === "csv"
    const { delimiter } = entry.preview
    const parameters = {
      resource: entry.resource,
      format: entry.preview.format,
      csv_delimiter: isCsv && delimiter !== "," ? (delimiter === "\t" ? "tab" : delimiter) : null,
      csv_safe: isCsv && csv_safe ? "true" : null,
      columns: columns.parameter(entry.columns),
      mode,
      max_errors: max_errors || null,
      max_error_rate: max_error_percent === "" ? null : String(Number(max_error_percent) / 100),
      on_error: stop ? "stop" : null,
      unknown_fields: !isCsv && ignore_unknown ? "ignore" : null,
      after: after || null,
      dry_run: isDryRun ? "true" : null,
      undoable: undoable && !isDryRun ? "true" : null,
    }
    return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== null))
  }

  /** The parameters have changed since the check. */
  isOutdated(entry) {
    return entry.check !== null && entry.checkedWith !== JSON.stringify(this.parameters(entry, { isDryRun: true }))
  }

  /**
   * The earlier file whose records have to be stored before this one can be checked: a check stores nothing, so every reference
   * to them would be refused.
   */
  waitsFor(entry) {
    const parents = new Set(this.resource(entry).fields.map(({ reference }) => reference))
    const earlier = this.entries.slice(0, this.entries.indexOf(entry))
    return earlier.find((other) => parents.has(other.resource) && !other.isOver) ?? null
  }

  get isBusy() {
    return this.entries.some(({ isBusy }) => isBusy)
  }

  get isOver() {
    return this.entries.length > 0 && this.entries.every(({ isOver }) => isOver)
  }

  checkAll() {
    for (const entry of this.entries) if (!entry.isBusy && !entry.isOver) entry.check = null
    return this.check()
  }

  /** Checks each file that can be checked now; the others follow when what they refer to is stored. */
  async check() {
    this.#isChecking = true
    const due = (entry) => !entry.isBusy && !entry.isOver && (!entry.check || this.isOutdated(entry)) && !this.waitsFor(entry)
    const following = []
    for (const entry of this.entries.filter(due)) {
      entry.check = null
      const parameters = this.parameters(entry, { isDryRun: true })
      entry.checkedWith = JSON.stringify(parameters)
      if (await this.#send(entry, parameters, (job) => (entry.check = job))) following.push(this.#followCheck(entry))
      // an error in the options affects the other files, too
      else if (entry.problem?.errors.length) break
    }
    await Promise.all(following)
  }

  /** Imports all files without a check, each after the one before it. */
  async importAll() {
    this.step = STORE
    this.#isChecking = false
    let after = this.options.after
    const following = []
    for (const entry of this.entries.filter(({ isOver }) => !isOver)) {
      const parameters = this.parameters(entry, { isDryRun: false, after })
      if (!(await this.#send(entry, parameters, (job) => (entry.stored = job)))) break
      after = entry.stored.id
      following.push(this.#followStored(entry))
    }
    await Promise.all(following)
  }

  /** Makes the checked file a real import. A dry run has one commit, so the request can be repeated. */
  async commit(entry) {
    const isCommitted = await this.#act(entry, async () => {
      entry.stored = await post(this.commitPath(entry))
    })
    if (isCommitted) await this.#followStored(entry)
  }

  commitPath(entry) {
    return entry.check.links.commit + (this.options.undoable ? "?undoable=true" : "")
  }

  async throwAway(entry) {
    const isDone = await this.#act(entry, () => remove(entry.check.links.self))
    if (!isDone && entry.problem.status !== 404) return
    entry.problem = null
    entry.isThrownAway = true
    this.onchange(`${entry.file.name} was thrown away.`)
    if (this.#isChecking) await this.check()
  }

  /** Sends one request about a file, and repeats it after a temporary problem. Returns whether it succeeded. */
  async #act(entry, send) {
    entry.isWaiting = true
    for (;;) {
      this.onchange()
      try {
        await send()
        entry.problem = null
        break
      } catch (problem) {
        this.#fail(entry, problem)
        if (!problem.isTemporary) break
        await seconds(problem.retryAfter ?? 2)
      }
    }
    entry.isWaiting = false
    this.onchange()
    return entry.problem === null
  }

  async cancel(entry) {
    if (entry.sending) return entry.sending.cancel()
    await this.#act(entry, () => post(entry.job.links.cancel))
    // it has ended meanwhile
    if (entry.problem?.status === 409) entry.problem = null
    // the end of the job may be known before the response to the request
    if (entry.check && isFinal(entry.check)) this.#leaveCheck()
    return undefined
  }

  /** Uploads the file. Returns whether it was accepted; else `entry.problem` says why not, or the user has cancelled. */
  async #send(entry, parameters, accept) {
    entry.problem = null
    entry.sending = new Sending(typed(entry), parameters, () => this.onchange())
    try {
      accept(await entry.sending.run())
      columns.remember(entry.resource, entry.columns)
      return true
    } catch (problem) {
      if (problem.name !== "AbortError") this.#fail(entry, problem)
      return false
    } finally {
      entry.sending = null
      this.onchange()
    }
  }

  /** Shows a problem beside the field that it names, in the step of that field. */
  #fail(entry, problem) {
    if (!(problem instanceof Problem)) throw problem
    entry.problem = problem
    const steps = problem.errors.map((error) => stepOf(error, entry))
    if (steps.length) this.step = Math.min(...steps)
    this.onchange(problem.message)
  }

  async #followCheck(entry) {
    await this.#follow(entry)
    this.#leaveCheck()
    this.onchange(`The check of ${entry.file.name} is finished.`)
  }

  #leaveCheck() {
    if (this.step !== CHECK || this.isBusy) return
    this.step = STORE
    this.onchange()
  }

  async #followStored(entry) {
    await this.#follow(entry)
    this.onchange(`${entry.file.name}: the import is ${entry.stored.status}.`)
    if (this.#isChecking && isFinal(entry.stored)) await this.check()
  }

  /** Resumes polling the jobs whose polling ended because a key was needed. */
  resume() {
    for (const entry of this.entries) {
      if (entry.job === null || isFinal(entry.job) || entry.isFollowed) continue
      if (entry.stored) this.#followStored(entry)
      else this.#followCheck(entry)
    }
  }

  /** Polls the job until it is final. Failed requests are repeated. */
  async #follow(entry) {
    entry.isFollowed = true
    let quarter = 0
    for (let pause = 0.25; !isFinal(entry.job) && entry.isFollowed; pause = Math.min(2, pause * 1.5)) {
      await seconds(pause)
      try {
        const job = await get(entry.job.links.self)
        if (entry.stored) entry.stored = job
        else entry.check = job
        entry.problem = null
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem
        entry.problem = problem
        entry.isThrownAway = problem.status === 404
        entry.isFollowed = problem.isTemporary
      }
      const { percent } = entry.job.progress
      this.onchange(
        percent >= 25 * (quarter + 1) && percent < 100 ? `${Math.floor(percent)} % of ${entry.file.name} is done.` : undefined,
      )
      quarter = Math.floor(percent / 25)
    }
    entry.isFollowed = false
  }
}

const seconds = (duration) => new Promise((resolve) => setTimeout(resolve, 1000 * duration))

const MEDIA_TYPES = { gzip: "application/gzip", zstd: "application/zstd" }

/** The file as it is sent: the service learns from its type that it is compressed, whatever its name is. */
function typed({ file, preview }) {
  return preview.compression ? new File([file], file.name, { type: MEDIA_TYPES[preview.compression] }) : file
}

const STEP_OF_FIELD = { resource: FILE, format: FILE, csv_delimiter: FILE, file: FILE, columns: COLUMNS }

function stepOf({ field, code }, entry) {
  if (code === "missing_required" || code === "unknown_field" || entry.columns.some(({ name }) => name === field)) return COLUMNS
  return STEP_OF_FIELD[field] ?? CHECK
}
