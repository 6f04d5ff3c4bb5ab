"""Chat templates in the ways of published ones, and conversations for them."""

from __future__ import annotations

TEMPLATES = {
    "a default system message": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<s>system\\nYou are a helpful assistant</s>\\n' }}{% endif %}
{{'<s>' + message['role'] + '\n' + message['content'] + '</s>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}""",
    "the system message in the first turn, and turns in order": """{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = messages[0]['content'] %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = false %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 and system_message != false %}
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}""",
    "headers": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{#- The date is part of it. #}
{{- "<|start|>system<|end|>\n\nToday: " ~ date_string ~ "\n\n" }}
{%- if tools is not none %}{{- "Environment: ipython\n" }}{%- endif %}
{{- system_message }}
{%- for message in messages %}
    {{- '<|start|>' + message['role'] + '<|end|>\n\n'+ message['content'] | trim + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|end|>\n\n' }}
{%- endif %}""",
    "no system message, and a role of another name": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<turn>' + role + '\n' + message['content'] | trim + '</turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{'<turn>model\n'}}{% endif %}""",
    "thoughts, which only the last turn keeps": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- if loop.index0 > ns.last %}{%- set content = '<think>' ~ thought ~ '</think>' ~ content %}{%- endif %}
    {%- endif %}
    {{- '<s>' + message.role + '\\n' + content + '</s>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<s>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>' }}{%- endif %}
{%- endif %}""",
    "filters, tests and a macro": """{%- macro turn(message, number) -%}
    {%- set facts = {'text': message['content'], 'n': [1, 2.5, none, true]} -%}
    {{ number }}. {{ message.get('role') | upper }}: {{ facts | tojson }}
{%- endmacro -%}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list -%}
{%- for message in messages if message['role'] != 'system' -%}
    {{ turn(message, loop.index) }}{{ '!' if message == asked[-1] and loop.last else ';' }}
{%- endfor -%}
{{- asked | map(attribute='content') | join('|') | replace('?', '') }} {{ asked | length }}
{%- for key, value in messages[0].items() %}[{{ key }}={{ value[:3] | lower }}]{% endfor %}
{{ messages[0].content.startswith('Be') or 'x' }}{{ bos_token ~ (unk_token | default('none')) }}
""",
}

#: A system message; spaces and line ends at the ends; what a template must leave alone; turns that do not alternate.
TALKS = [
    [{"role": "user", "content": "Is 2 < 3?"}],
    [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": "  Who?\r\n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nTom & “Lily”.\n"},
        {"role": "user", "content": "{{ x }} {% raw %} {# é #} <s>\\n \"q\" 'café' 東京 🙂"},
    ],
    [{"role": "user", "content": "One"}, {"role": "user", "content": "two"}],
]
