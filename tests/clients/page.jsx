// A page with attachments and documents, out of what docs/files.md and docs/front-end.md show.

import { useState } from "react";
import { createRoot } from "react-dom/client";
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { withEvent } from "./documents.js";
import { uploaded } from "./files.js";
import { api, credentials, id } from "./session.js";

const transport = new DefaultChatTransport({ api: `${api}/chat`, credentials });
const { items = [] } = await (await fetch(`${api}/sessions/${id}/messages`, { credentials })).json();

function Part({ part }) {
  if (part.type === "file" && part.mediaType.startsWith("image/")) return <img src={new URL(part.url, api).href} />;
  return part.type === "text" ? part.text : null;
}

function Page() {
  const [documents, setDocuments] = useState({});
  const [refusal, setRefusal] = useState();
  const { messages, sendMessage, status, error } = useChat({
    id, transport, messages: items, resume: true,
    onData: (event) => setDocuments((before) => withEvent(before, event)),
  });
  const attach = async ({ target: input }) => {
    try {
      const files = [];
      for (const file of input.files) files.push(await uploaded(file));
      await sendMessage({ text: "What is this?", files });
    } catch ({ message }) {
      setRefusal(message);
    }
  };
  return (
    <form action={(form) => void sendMessage({ text: form.get("text") })}>
      {messages.map(({ id, role, parts }) => (
        <p key={id}>{role}: {parts.map((part, index) => <Part key={index} part={part} />)}</p>
      ))}
      {Object.entries(documents).map(([id, { kind, title, text, isDone }]) => (
        <article key={id}>{kind} {title} {isDone ? "whole" : "unfinished"}: {text}</article>
      ))}
      {(refusal || error) && <p role="alert">{refusal || error.message}</p>}
      <input name="text" /> <button disabled={/submitted|streaming/.test(status)}>Send</button>
      <input type="file" multiple onChange={attach} />
    </form>
  );
}

createRoot(document.getElementById("root")).render(<Page />);
