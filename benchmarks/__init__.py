"""The commands behind the measured tables, each `python -m benchmarks.NAME`, and their results.

Methods against retraining: validation, quality, relearn, verdicts, ablation, deletions, few_samples, cost, policy, transfer, speed;
methods (the search of parameters); gpu (several of these at full size on one GPU).
Preparation in training: readiness. Attacks with shadow models: attacks.
The service: load, coalescing, soak, uploads, reports, scrapes, dashboards; mutations (whether the tests notice a broken promise).
Shared: cases, known_models, judging, characteristics, command_line, machine; serving; promises; writing, tables.
"""
