// Reads an event stream with a public client and prints what the client made of it.
//
//   node parse.mjs READER < request.json > events.json
//
// READER is one of `readers` below. The request is {"url", "types", "count"}: an EventSource hands
// over a typed event only to who listens for that type, so the types are told in advance. It ends
// after `count` events with [{"type", "data", "lastEventId"}, …] on standard output; who started it
// sets the time limit, and the process ends with its caller.

import { createParser } from 'eventsource-parser'
import { EventSource } from 'eventsource'
import { launch } from './chromium.mjs'

const readers = {
  eventsource: ({ url, types, count }) => listen(EventSource, url, types, count),
  'eventsource-parser': readWithParser,
  'fetch-event-source': readWithFetchEventSource,
  chromium: readWithChromium,
}

/**
 * Collects from anything with the interface of EventSource. Self-contained, because Chromium runs it
 * from its source text. The client's own `error` and `open` are no MessageEvents, the server's are.
 */
function listen(EventSource, url, types, count) {
  return new Promise((resolve, reject) => {
    const events = []
    const source = new EventSource(url)
    const take = (event) => {
      if (event instanceof MessageEvent && events.length < count) {
        events.push({ type: event.type, data: event.data, lastEventId: event.lastEventId })
        if (events.length === count) {
          source.close()
          resolve(events)
        }
      } else if (event.type === 'error' && events.length < count) {
        source.close()
        reject(new Error(`the stream failed after ${events.length} of ${count} events`))
      }
    }
    for (const type of new Set([...types, 'message', 'error'])) source.addEventListener(type, take)
  })
}

async function readWithParser({ url, count }) {
  const controller = new AbortController()
  const response = await fetch(url, { headers: { accept: 'text/event-stream' }, signal: controller.signal })
  const events = []
  const parser = createParser({
    onEvent: ({ event, data, id }) => events.push({ type: event ?? 'message', data, lastEventId: id ?? '' }),
    onError: (error) => {
      throw error
    },
  })
  const decoder = new TextDecoder()
  for await (const bytes of response.body) {
    parser.feed(decoder.decode(bytes, { stream: true }))
    if (events.length >= count) break
  }
  controller.abort()
  return events.slice(0, count)
}

async function readWithFetchEventSource({ url, count }) {
  // Made for browsers: it looks for a hidden tab and uses the window's timers.
  globalThis.window ??= globalThis
  globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} }
  const { fetchEventSource } = await import('@microsoft/fetch-event-source')
  const controller = new AbortController()
  const events = []
  await fetchEventSource(url, {
    signal: controller.signal,
    onmessage({ event, data, id }) {
      if (events.length === count) return
      events.push({ type: event || 'message', data, lastEventId: id })
      if (events.length === count) controller.abort()
    },
    onclose() {
      throw new Error(`the stream ended after ${events.length} of ${count} events`)
    },
    onerror(error) {
      throw error
    },
  })
  return events
}

async function readWithChromium({ url, types, count, chromium: executablePath }) {
  const browser = await launch(executablePath)
  try {
    const page = await browser.newPage()
    // An empty page of the same origin, so that no server has to have one.
    const blank = new URL('/blank-page-of-the-test', url).href
    await page.route(blank, (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }))
    await page.goto(blank)
    const script = `(${listen})(EventSource, ${JSON.stringify(url)}, ${JSON.stringify(types)}, ${count})`
    return await page.evaluate(script)
  } finally {
    await browser.close()
  }
}

const chunks = []
for await (const chunk of process.stdin) chunks.push(chunk)
const request = JSON.parse(Buffer.concat(chunks).toString('utf8'))
const read = readers[process.argv[2]]
if (!read) throw new Error(`no reader ${process.argv[2]}; there are ${Object.keys(readers).join(', ')}`)
const output = JSON.stringify(await read(request))
process.stdout.write(output, () => process.exit(0))
