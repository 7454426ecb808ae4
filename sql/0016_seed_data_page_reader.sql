-- OpenAI has no tool of its own that reads a page at a given address; the agent brings one, so it is on there as well.
-- A row that somebody has changed stays as it is.

update public.admin_config as a
set config_data = jsonb_set(
    jsonb_set(
        a.config_data,
        '{tools,urlContext}',
        jsonb_build_object(
            'enabled', true,
            'description',
            'Reads the web pages whose addresses the request names, by Threadkeep''s own reader: OpenAI has no such '
            'tool. It reaches no address inside private networks.'
        )
    ),
    '{systemPrompt}',
    to_jsonb(replace(
        replace(
            a.config_data ->> 'systemPrompt',
            'Your tools are web search and code execution; only those that you were given exist.',
            'Your tools are web search, reading of web pages and code execution; only those that you were given exist.'
        ),
        $old$- A given address: you have no tool that fetches one directly. Search for the address and for the page's title, and
  open it from the results. If it is not found, say that the page could not be opened; never describe a page that you
  did not see.$old$,
        $new$- Reading pages: if the request names an address, read that page. Follow an address that a page or a search gave you;
  never construct one by guessing. If a page cannot be read, say so and use what search knows of it, marked as such;
  never describe a page that you did not see.$new$
    ))
)
where a.config_key = 'provider_tools_agent_openai'
    and a.version = 1;

update public.admin_config as a
set config_data = jsonb_set(
    a.config_data,
    '{tools,providerToolsAgent,description}',
    (
        select g.config_data #> '{tools,providerToolsAgent,description}'
        from public.admin_config as g
        where g.config_key = 'chat_model_agent_google'
    )
)
where a.config_key = 'chat_model_agent_openai'
    and a.version = 1
    and exists (
        select from public.admin_config as g
        where g.config_key = 'chat_model_agent_google'
            and g.version = 1
    );
