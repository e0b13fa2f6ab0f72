// Numbers, sizes, durations and times as text.

const LOCALE = "en"
const whole = new Intl.NumberFormat(LOCALE)
const decimal = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 1 })
const compact = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumSignificantDigits: 3 })
const relative = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto", style: "long" })

/** Settings for the display of times. */
export const times = { utc: false }

export const number = (value) => whole.format(value)

/** "1.2M" for plots and tiles. */
export const short = (value) => compact.format(value)

/** "1 record", "2 records". */
export const count = (value, noun, plural = `${noun}s`) => `${number(value)} ${value === 1 ? noun : plural}`

/** A share as "12.5 %"; never rounded to 0 or 100 when it is not. */
export function percent(part, total) {
  if (!total) return "0 %"
  const value = (100 * part) / total
  const text = value > 0 && value < 0.1 ? "< 0.1" : value < 100 && value > 99.9 ? "> 99.9" : decimal.format(value)
  return `${text} %`
}

export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"]
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit += 1
  }
  return `${unit === 0 || value >= 100 ? whole.format(Math.round(value)) : decimal.format(value)} ${units[unit]}`
}

/** A limit: multiples of binary units as "64 MiB"; others as `bytes`. */
export function binary(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size && value % size === 0) return `${whole.format(value / size)} ${unit}`
  }
  return bytes(value)
}

/** A duration in seconds as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "7 days". */
export function duration(seconds) {
  if (seconds < 10) return `${decimal.format(Math.max(0, seconds))} s`
  const rounded = Math.round(seconds)
  if (rounded < 60) return `${rounded} s`
  const pair = (large, size, first, second) => {
    const rest = Math.floor((rounded % size) / (size / 60))
    return `${large} ${first}${rest ? ` ${rest} ${second}` : ""}`
  }
  if (rounded < 3600) return pair(Math.floor(rounded / 60), 60, "min", "s")
  if (rounded < 48 * 3600) return pair(Math.floor(rounded / 3600), 3600, "h", "min")
  return `${Math.floor(rounded / 86400)} days`
}

/** "3 minutes ago". */
export function ago(time, now = Date.now()) {
  const seconds = (new Date(time).getTime() - now) / 1000
  const steps = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
  ]
  for (const [unit, size] of steps) if (Math.abs(seconds) >= size) return relative.format(Math.round(seconds / size), unit)
  return Math.abs(seconds) < 5 ? "just now" : relative.format(Math.round(seconds), "second")
}

/** The exact time, in the zone of the browser or UTC. */
export function exact(time) {
  return new Intl.DateTimeFormat(LOCALE, {
    dateStyle: "medium",
    timeStyle: "medium",
    timeZone: times.utc ? "UTC" : undefined,
    hourCycle: "h23",
  }).format(new Date(time)) + (times.utc ? " UTC" : "")
}

/** The first part of an id, which is enough to tell jobs apart by eye. UUIDs of version 7 differ at their end. */
export const shortId = (id) => id.slice(-8)

/** Seconds between two times. */
export const secondsBetween = (from, to) => (new Date(to).getTime() - new Date(from).getTime()) / 1000
