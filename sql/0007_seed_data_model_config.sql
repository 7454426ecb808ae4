-- The models of the source design, with the prices of their time in US dollars per million tokens. A model that is
-- there already stays as it is.

insert into public.model_config (
    model_id, name, description,
    provider, is_active, is_default, thinking_enabled,
    input_pricing_per_million_tokens, output_pricing_per_million_tokens,
    metadata
)
values
(
    'gemini-2.0-flash', 'Gemini 2.0 Flash', 'Fast and inexpensive, for everyday questions.',
    'google', true, true, false, 0.10, 0.40,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 8192,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.025
    }'
),
(
    'gemini-2.5-flash', 'Gemini 2.5 Flash', 'Thinks before it answers, at a low price.',
    'google', true, false, true, 0.30, 2.50,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 65536,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.03
    }'
),
(
    'gemini-2.5-pro', 'Gemini 2.5 Pro', 'For hard problems in reasoning, code and mathematics.',
    'google', true, false, true, 1.25, 10.00,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 65536,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.125,
        "longContext": {
            "aboveInputTokens": 200000,
            "inputPrice": 2.5,
            "cachedInputPrice": 0.25,
            "outputPrice": 15
        }
    }'
),
(
    'gemma-3', 'Gemma 3', 'Open model, served free of charge and without tools.',
    'google', false, false, false, 0, 0,
    '{
        "contextWindow": 131072,
        "maxOutputTokens": 8192,
        "capabilities": ["images"]
    }'
),
(
    'gpt-4o', 'GPT-4o', 'Versatile model for text and images.',
    'openai', true, true, false, 2.50, 10.00,
    '{
        "contextWindow": 128000,
        "maxOutputTokens": 16384,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 1.25
    }'
),
(
    'gpt-4o-mini', 'GPT-4o mini', 'Small, fast and inexpensive.',
    'openai', true, false, false, 0.15, 0.60,
    '{
        "contextWindow": 128000,
        "maxOutputTokens": 16384,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.075
    }'
),
(
    'gpt-4-turbo', 'GPT-4 Turbo', 'Earlier model for demanding work.',
    'openai', false, false, false, 10.00, 30.00,
    '{
        "contextWindow": 128000,
        "maxOutputTokens": 4096,
        "capabilities": ["images", "tools"]
    }'
),
(
    'claude-3-5-sonnet-20241022', 'Claude 3.5 Sonnet', 'Balance of intelligence and speed.',
    'anthropic', true, true, false, 3.00, 15.00,
    '{
        "contextWindow": 200000,
        "maxOutputTokens": 8192,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.3,
        "cacheWritePrice": 3.75
    }'
),
(
    'claude-3-5-haiku-20241022', 'Claude 3.5 Haiku', 'Fast and inexpensive.',
    'anthropic', true, false, false, 0.80, 4.00,
    '{
        "contextWindow": 200000,
        "maxOutputTokens": 8192,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.08,
        "cacheWritePrice": 1
    }'
),
(
    'claude-3-opus-20240229', 'Claude 3 Opus', 'Earlier model for complex work.',
    'anthropic', false, false, false, 15.00, 75.00,
    '{
        "contextWindow": 200000,
        "maxOutputTokens": 4096,
        "capabilities": ["images", "tools"],
        "cachedInputPrice": 1.5,
        "cacheWritePrice": 18.75
    }'
)
on conflict (model_id) do nothing;
