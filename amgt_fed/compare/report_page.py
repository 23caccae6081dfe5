"""The comparison's page, as a Jinja template."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AMGT-Fed: {{ name }}</title>
<style>
{{ style }}figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
tr.ours td { font-weight: 600; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="lead">{{ methods|length }} methods, {{ tasks|length }} task{{ "s" if tasks|length > 1 }}, seed{{ "s" if seeds|length > 1 }} {{ seeds|join(", ") }}.
Every method did the same local work on the same clients in the same rounds; bytes are the payload bytes of every message, up and down.
{% if tuned %}Each method's rates were searched for with a seed of their own ({{ tune_seed }}).{% else %}Rates were not searched for.{% endif %}</p>
{% for task in tasks %}
<h2>{{ task.result.task }}: {{ task.result.metric }}{% if task.reference %} ({{ task.reference }} without a federation){% endif %}</h2>
{% for table in task.tables %}
{% if table.title %}<h3>To {{ table.title }}</h3>{% endif %}
<div class="scroll"><table>
<thead><tr>{% for head in heads %}<th scope="col">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{% if row[0] == "amgt" %} class="ours"{% endif %}>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% for note in task.notes %}
<p class="lead">{{ note }}.</p>
{% endfor %}
{% for chart in task.charts %}
<figure><img src="data:image/png;base64,{{ chart.data }}" alt="{{ chart.title }}">
<figcaption>{{ chart.title }}. {{ chart.name }}.png, {{ chart.name }}.svg</figcaption></figure>
{% endfor %}
{% if task.trials %}
<details><summary>Rates tried</summary><div class="scroll"><table>
<thead><tr><th scope="col">method</th><th scope="col">client rate</th><th scope="col">server rate</th><th scope="col">{{ task.result.metric }}</th></tr></thead>
<tbody>
{% for row in task.trials %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div></details>
{% endif %}
{% endfor %}
{% if failures %}
<h2>Without a result</h2>
<ul>{% for line in failures %}<li>{{ line }}</li>{% endfor %}</ul>
{% endif %}
<h2>Again</h2>
<pre>{{ command }}</pre>
<p class="lead">Numbers: compare.json, table.csv (a line for each run and target), curves.csv (a line for each round).</p>
<details><summary>Versions</summary><pre>{% for key, value in versions.items() %}{{ key }} {{ value }}
{% endfor %}</pre></details>
</body>
</html>
"""
