// The client's side of Web Push: makes subscriptions and reads what is sent to them, with the npm package
// `http_ece` and Node's own cryptography.
//
//   node push.mjs < commands > answers
//
// A line in is a JSON object, a line out the answer to it: {"value"} or {"error"}. The commands are the
// functions of `commands` below, by `op`. It ends with its input.

import { createECDH, createPublicKey, randomBytes, verify } from 'node:crypto'
import { createInterface } from 'node:readline'
import ece from 'http_ece'

const subscriptions = []

const commands = {
  /** Makes a subscription, as a browser would. */
  subscribe() {
    const keys = createECDH('prime256v1')
    const p256dh = keys.generateKeys().toString('base64url')
    const auth = randomBytes(16).toString('base64url')
    subscriptions.push({ keys, auth })
    return { id: subscriptions.length - 1, p256dh, auth }
  },
  /**
   * Reads a message and checks who sent it. What is wrong is a status that a push service would answer,
   * and why.
   */
  receive({ id, body, authorization, audience }) {
    let sender
    try {
      sender = checkSender(authorization, audience)
    } catch (error) {
      return { status: 403, detail: `VAPID: ${error.message}` }
    }
    try {
      const { keys, auth } = subscriptions[id]
      const text = ece.decrypt(Buffer.from(body, 'base64'), {
        version: 'aes128gcm',
        privateKey: keys,
        authSecret: auth,
      })
      return { ...sender, text: text.toString('utf8') }
    } catch (error) {
      return { status: 400, detail: `encryption: ${error.message}` }
    }
  },
}

/** RFC 8292: the token's signature by the key beside it, whom it is for, and how long. */
function checkSender(authorization, audience) {
  const parts = /^vapid t=([^, ]+), ?k=([^, ]+)$/.exec(authorization ?? '')
  if (!parts) throw new Error('no `vapid` authorization')
  const [, token, key] = parts
  const [header, payload, signature] = token.split('.')
  const point = Buffer.from(key, 'base64url')
  if (point.length !== 65 || point[0] !== 4) throw new Error('the key is no uncompressed point')
  const publicKey = createPublicKey({
    format: 'jwk',
    key: {
      kty: 'EC',
      crv: 'P-256',
      x: point.subarray(1, 33).toString('base64url'),
      y: point.subarray(33).toString('base64url'),
    },
  })
  const isSigned = verify(
    'sha256',
    Buffer.from(`${header}.${payload}`),
    { key: publicKey, dsaEncoding: 'ieee-p1363' },
    Buffer.from(signature, 'base64url'),
  )
  if (!isSigned) throw new Error('the signature is wrong')
  const { alg } = JSON.parse(Buffer.from(header, 'base64url'))
  if (alg !== 'ES256') throw new Error(`the algorithm is ${alg}`)
  const claims = JSON.parse(Buffer.from(payload, 'base64url'))
  const now = Date.now() / 1000
  if (claims.aud !== audience) throw new Error(`it is for ${claims.aud}, not for ${audience}`)
  if (!(claims.exp > now && claims.exp <= now + 24 * 60 * 60)) throw new Error(`it ends at ${claims.exp}`)
  return { claims, key }
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const { op, ...args } = JSON.parse(line)
    answer = { value: commands[op](args) }
  } catch (error) {
    answer = { error: String(error?.stack ?? error) }
  }
  console.log(JSON.stringify(answer))
}
