"""Raise an import error that names every project file which cannot be loaded, and its fields; makes no DAG.

Airflow drops every DAG of a file that raises. The other files therefore skip a broken project, and this one raises.
"""

from dags.assets import check_projects

check_projects()
