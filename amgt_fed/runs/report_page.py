"""The report's page, as a Jinja template. In Python, because a Flower bundle carries Python files alone."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AMGT-Fed: {{ name }}</title>
<style>
{{ style }}</style>
</head>
<body>
<h1>{{ name }}</h1>
{% if summary %}
<p class="lead">{{ summary.task }} over {{ summary.num_clients }} clients, {{ summary.rounds }} rounds, {{ "{:,}".format(summary.parameters) }} parameters, engine {{ summary.engine }}, seed {{ summary.seed }}.
Status: <strong>{{ summary.status }}</strong>{% if certificate %}; certificate: {{ certificate }}{% endif %}{% if summary.stopped %}, stopped ({{ summary.stopped }}){% endif %}.{% if summary.failures %} {{ summary.failures }} failed client calls.{% endif %}</p>
{% else %}
<p class="lead">{{ rounds|length }} rounds so far; the run is not over.</p>
{% endif %}
{% if table %}
<h2>Result</h2>
<div class="scroll"><table>
<thead><tr><th></th><th>this run</th>{% if table[0].baseline %}<th>dense FedAvg</th><th>ratio</th>{% endif %}</tr></thead>
<tbody>
{% for row in table %}
<tr><td>{{ row.what }}</td><td>{{ row.ours }}</td>{% if table[0].baseline %}<td>{{ row.baseline }}</td><td>{{ row.ratio }}</td>{% endif %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if picture %}
<h2>Course</h2>
<img src="data:image/png;base64,{{ picture }}" alt="Four charts: {{ metric }} against rounds and against bytes, loss against rounds, and the round's error beside the update's norm">
{% endif %}
{% if recent %}
<h2>Last {{ recent|length }} rounds</h2>
<div class="scroll"><table>
<thead><tr><th>round</th><th>loss</th><th>{{ metric }}</th><th>bytes up</th><th>bytes down</th><th>update norm</th><th>delta</th><th>drift</th><th>clients</th><th>failures</th><th>seconds</th></tr></thead>
<tbody>
{% for r in recent %}
<tr><td>{{ r.round }}</td><td>{{ "%.4f"|format(r.loss) if r.loss is not none else "" }}</td><td>{{ "%.4f"|format(r.metrics[metric]) if metric in r.metrics else "" }}</td><td>{{ "{:,}".format(r.uplink_bytes) }}</td><td>{{ "{:,}".format(r.downlink_bytes) }}</td><td>{{ "%.4g"|format(r.update_norm) }}</td><td>{{ "%.4g"|format(r.delta) }}</td><td>{{ "%.2f"|format(r.drift) }}</td><td>{{ r.num_clients }}</td><td>{{ r.failures }}</td><td>{{ "%.2f"|format(r.seconds) }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<h2>Again</h2>
<p>The same configuration and seed give the same model, bit for bit, on every engine{% if summary %} (sha256 {{ summary.model_sha256[:16] }}…){% endif %}:</p>
<pre>{{ command }}</pre>
<details><summary>Configuration</summary><pre>{{ config }}</pre></details>
{% if summary %}<details><summary>Versions</summary><pre>{% for key, value in summary.versions.items() %}{{ key }} {{ value }}
{% endfor %}</pre></details>{% endif %}
</body>
</html>
"""
