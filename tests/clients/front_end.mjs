// A front end without a page: chats of one release of the AI SDK, which do what lines of JSON tell them.
//
// In:  {"call": 1, "chat": "a", "act": "send", …what the act takes}
// Out: {"call": 1, "page": what a person would see} or {"call": 1, "failure": "…"}

import { createInterface } from "node:readline";

const release = process.argv[2];
const { DefaultChatTransport } = await import(`ai${release}`);
const { Chat } = await import(`react${release}`);

const pages = new Map();

const acts = {
  open(page, { api, token, id, messages, network = {} }) {
    page.token = token;
    page.errors = [];
    page.data = [];
    page.chat = new Chat({
      ...(id && { id }),
      messages,
      transport: new DefaultChatTransport({
        api,
        headers: () => (page.token ? { authorization: `Bearer ${page.token}` } : {}),
        fetch: networks[network.kind]?.(page, network),
      }),
      onError: (error) => page.errors.push(error.message),
      onData: (part) => page.data.push(part),
    });
  },
  send: ({ chat }, { message, options }) => chat.sendMessage(message, options),
  regenerate: ({ chat }, { messageId }) => chat.regenerate(messageId ? { messageId } : undefined),
  resume: ({ chat }) => chat.resumeStream(),
  stop: ({ chat }) => chat.stop(),
  breakOff: (page) => page.breakOff(),
  look() {},
  async until({ chat }, { text, status }) {
    const isShown = () => JSON.stringify(chat.messages).includes(text) && (!status || chat.status === status);
    await new Promise((resolve) => {
      const look = () => isShown() && resolve();
      chat["~registerMessagesCallback"](look);
      chat["~registerStatusCallback"](look);
      look();
    });
  },
};

const networks = {
  // How a front end without cookies keeps the guest that its first message made.
  guest: (page) => async (...request) => {
    const response = await fetch(...request);
    page.token = response.headers.get("x-guest-token") ?? page.token;
    return response;
  },
  // One whose connections break when a test says so.
  breakable: (page) => async (...request) => {
    const response = await fetch(...request);
    const broken = new TransformStream({
      start(controller) {
        page.breakOff = () => controller.error(new TypeError("network error"));
      },
    });
    return new Response(response.body.pipeThrough(broken), response);
  },
  // A server that says exactly this.
  saying: (_, { events }) => async () => new Response(events),
};

function seen({ chat, token, errors, data }) {
  const { id, status, messages, error } = chat;
  return { id, status, messages, error: error?.message ?? null, errors, data, token: token ?? null };
}

async function obey(line) {
  const { call, chat, act, ...given } = JSON.parse(line);
  if (!pages.has(chat)) pages.set(chat, {});
  const page = pages.get(chat);
  try {
    await acts[act](page, given);
    return { call, page: seen(page) };
  } catch (error) {
    return { call, failure: String(error) };
  }
}

createInterface({ input: process.stdin })
  .on("line", async (line) => process.stdout.write(`${JSON.stringify(await obey(line))}\n`))
  .on("close", () => process.exit());
