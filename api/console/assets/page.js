// The base class of all pages.

import { Problem } from "./client.js"

/**
 * A page. The shell creates it when its address is entered, calls `open()`, and draws `render()` whenever `update()` is called.
 * `signal` is aborted when the page is left: pass it to each request.
 */
export class Page {
  #draw
  #timers = new Set()
  #leave = new AbortController()

  constructor({ params, query, draw, announce }) {
    this.params = params
    this.query = query
    this.#draw = draw
    /** Announces a sentence to screen readers. */
    this.announce = announce
    this.signal = this.#leave.signal
    /** The problem because of which the page shows nothing, or null. */
    this.problem = null
    /** The time of the last successful response, which shows the age of the state. */
    this.loadedAt = null
  }

  /** The title of the document. */
  get title() {
    return ""
  }

  open() {}

  render() {
    return null
  }

  update() {
    if (!this.signal.aborted) this.#draw()
  }

  close() {
    this.#leave.abort()
    for (const timer of this.#timers) clearTimeout(timer)
  }

  /** Calls `action` after `seconds`, unless the page is left before. */
  after(seconds, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      action()
    }, seconds * 1000)
    this.#timers.add(timer)
    return timer
  }

  /** Runs `action` and draws. A `Problem` becomes `this.problem`; it is cleared by the next success. */
  async attempt(action) {
    try {
      const result = await action()
      this.problem = null
      this.loadedAt = new Date()
      return result
    } catch (error) {
      if (error.name === "AbortError") return undefined
      if (!(error instanceof Problem)) throw error
      this.problem = error
      return undefined
    } finally {
      this.update()
    }
  }

  /**
   * Calls `load()` repeatedly: `load` returns the seconds until the next call, or null to stop. While the document is hidden
   * or updates are off nothing is loaded. After a temporary problem it is called again.
   */
  async poll(load) {
    for (;;) {
      const seconds = await this.attempt(load)
      if (this.signal.aborted) return
      if (this.problem && !this.problem.isTemporary) return
      const pause = this.problem ? Math.max(this.problem.retryAfter ?? 2, 1) : seconds
      if (pause === null || pause === undefined) return
      await new Promise((resolve) => this.after(pause, resolve))
      await visible(this.signal)
    }
  }
}

/** Whether the pages update automatically; the user can turn that off. */
export const updates = { paused: false }

async function visible(signal) {
  while (document.hidden || updates.paused) {
    if (signal.aborted) return
    await new Promise((resolve) => {
      const done = () => {
        document.removeEventListener("visibilitychange", done)
        removeEventListener("bulk:updates", done)
        resolve()
      }
      document.addEventListener("visibilitychange", done)
      addEventListener("bulk:updates", done)
      signal.addEventListener("abort", done, { once: true })
    })
  }
}
