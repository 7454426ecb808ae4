-- The providers' current models, with prices in US dollars per million tokens as of November 2026. Those that are
-- announced to change carry the day. A model that is there already stays as it is.

insert into public.model_config (
    model_id, name, description,
    provider, is_active, is_default, thinking_enabled,
    input_pricing_per_million_tokens, output_pricing_per_million_tokens,
    metadata
)
values
(
    'gemini-3.8-flash', 'Gemini 3.8 Flash', 'Balanced: intelligent and quick, for conversation, tools and code.',
    'google', true, false, true, 0.75, 3.75,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 65536,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.075,
        "priceChanges": [
            {"from": "2027-01-01", "inputPrice": 1.5, "cachedInputPrice": 0.15, "outputPrice": 7.5}
        ]
    }'
),
(
    'gemini-4-argon', 'Gemini 4 Argon', 'Strongest, for long and complex work.',
    'google', true, false, true, 2.00, 10.00,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 65536,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.1,
        "priceChanges": [
            {"from": "2026-12-01", "inputPrice": 4, "cachedInputPrice": 0.2, "outputPrice": 20}
        ]
    }'
),
(
    'gemini-3.5-flash-lite', 'Gemini 3.5 Flash-Lite', 'Fastest and least expensive, for many simple requests.',
    'google', true, false, true, 0.30, 2.50,
    '{
        "contextWindow": 1048576,
        "maxOutputTokens": 65536,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.03
    }'
),
(
    'gpt-6.1-sol', 'GPT-6.1 Sol', 'Strongest, for complex code and professional work. It always thinks.',
    'openai', true, false, true, 2.00, 10.00,
    '{
        "contextWindow": 1050000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.1,
        "cacheWritePrice": 2.5,
        "longContext": {
            "aboveInputTokens": 272000,
            "inputPrice": 4,
            "cachedInputPrice": 0.2,
            "cacheWritePrice": 5,
            "outputPrice": 15
        }
    }'
),
(
    'gpt-6.1-terra', 'GPT-6.1 Terra', 'Balanced: quick, with clear and natural writing.',
    'openai', true, false, true, 1.00, 5.00,
    '{
        "contextWindow": 1050000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.05,
        "cacheWritePrice": 1.25,
        "longContext": {
            "aboveInputTokens": 272000,
            "inputPrice": 2,
            "cachedInputPrice": 0.1,
            "cacheWritePrice": 2.5,
            "outputPrice": 7.5
        }
    }'
),
(
    'gpt-6-luna', 'GPT-6 Luna', 'Fastest and least expensive, for many simple requests.',
    'openai', true, false, true, 0.10, 0.50,
    '{
        "contextWindow": 1050000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.01,
        "cacheWritePrice": 0.125,
        "longContext": {
            "aboveInputTokens": 272000,
            "inputPrice": 0.2,
            "cachedInputPrice": 0.02,
            "cacheWritePrice": 0.25,
            "outputPrice": 0.75
        }
    }'
),
(
    'claude-sonnet-5-5', 'Claude Sonnet 5.5', 'Balanced: the best combination of speed and intelligence.',
    'anthropic', true, false, true, 2.00, 10.00,
    '{
        "contextWindow": 1000000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.1,
        "cacheWritePrice": 2.5
    }'
),
(
    'claude-haiku-5-5', 'Claude Haiku 5.5', 'Fastest and least expensive, for many simple requests.',
    'anthropic', true, false, true, 0.10, 0.50,
    '{
        "contextWindow": 1000000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.01,
        "cacheWritePrice": 0.125,
        "longContext": {
            "aboveInputTokens": 100000,
            "inputPrice": 0.5,
            "cachedInputPrice": 0.05,
            "cacheWritePrice": 0.625,
            "outputPrice": 2.5
        }
    }'
),
(
    'claude-opus-5-5', 'Claude Opus 5.5', 'Strongest, for long-running code and knowledge work. It always thinks.',
    'anthropic', true, false, true, 4.00, 20.00,
    '{
        "contextWindow": 1000000,
        "maxOutputTokens": 128000,
        "capabilities": ["images", "pdf", "tools"],
        "cachedInputPrice": 0.2,
        "cacheWritePrice": 5
    }'
)
on conflict (model_id) do nothing;

-- Each provider's balanced model becomes its default, because the source design's defaults are being retired. It does
-- so only if nobody has touched the old default, and only if this migration made the new one: created_at is the time
-- of the transaction. One statement a provider, so that no provider is without a default at any moment.

update public.model_config
set is_default = (model_id = 'gemini-3.8-flash')
where provider = 'google'
    and model_id in ('gemini-2.0-flash', 'gemini-3.8-flash')
    and exists (
        select from public.model_config as former
        where former.model_id = 'gemini-2.0-flash'
            and former.is_default
            and former.updated_at = former.created_at
    )
    and exists (
        select from public.model_config as successor
        where successor.model_id = 'gemini-3.8-flash'
            and successor.created_at = now()
    );

update public.model_config
set is_default = (model_id = 'gpt-6.1-terra')
where provider = 'openai'
    and model_id in ('gpt-4o', 'gpt-6.1-terra')
    and exists (
        select from public.model_config as former
        where former.model_id = 'gpt-4o'
            and former.is_default
            and former.updated_at = former.created_at
    )
    and exists (
        select from public.model_config as successor
        where successor.model_id = 'gpt-6.1-terra'
            and successor.created_at = now()
    );

update public.model_config
set is_default = (model_id = 'claude-sonnet-5-5')
where provider = 'anthropic'
    and model_id in ('claude-3-5-sonnet-20241022', 'claude-sonnet-5-5')
    and exists (
        select from public.model_config as former
        where former.model_id = 'claude-3-5-sonnet-20241022'
            and former.is_default
            and former.updated_at = former.created_at
    )
    and exists (
        select from public.model_config as successor
        where successor.model_id = 'claude-sonnet-5-5'
            and successor.created_at = now()
    );

-- Its provider has shut it down, and as the cheapest active model it would be asked for every title.
update public.model_config
set is_active = false
where model_id = 'gemini-2.0-flash'
    and not is_default
    and exists (
        select from public.model_config as successor
        where successor.model_id = 'gemini-3.8-flash'
            and successor.created_at = now()
    );
