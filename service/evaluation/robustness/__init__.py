"""The robustness table: every defence, every attack, every task, cell by cell from one config.

- `config`: what is asked, from YAML
- `subjects`: which pictures, what they show, and what each attack wants them to be taken for
- `crafting`: attacked pictures, kept as files, so that a killed run goes on
- `defences`: what is served, and what an attacker of it differentiates
- `tasks`: what the language makes of a shown map: a class, a caption, yes or no
- `run`: cells one by one, a JSON line each
- `report`: tables with intervals, and plots
"""
