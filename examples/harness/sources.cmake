# The sources of the program but main.cpp, relative to this folder. The Python module (examples/python) has them, too.
set(catmerge_harness_sources commands/program.cpp
  commands/merge.cpp commands/features.cpp commands/evaluate.cpp commands/inspect.cpp commands/report.cpp
  commands/methods.cpp commands/experiment.cpp
  merge/plan.cpp merge/run_merge.cpp merge/outputs_choice.cpp merge/choice_account.cpp merge/merge_report.cpp
  adapters/adapter_set.cpp adapters/factor_method.cpp adapters/merge_adapters.cpp
  features/record_features.cpp networks/open_network.cpp experiment/evaluate.cpp checkpoints/inspect.cpp
  report/rewrite_report.cpp methods/list_methods.cpp methods/catalogue.cpp methods/parse_method.cpp methods/settings.cpp
  methods/cat_settings.cpp
  calibration/refit_walk.cpp calibration/automatic.cpp
  experiment/run_experiment.cpp experiment/bench.cpp experiment/laboratory.cpp experiment/contenders.cpp
  experiment/tables.cpp experiment/curves.cpp experiment/relatedness.cpp)
