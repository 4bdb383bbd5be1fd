"Everything about the package is said in settings.ini; this only hands it to setuptools."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=["="])
ini.read("settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    project_urls={"Source": cfg["git_url"], "Documentation": cfg["doc_host"] + cfg["doc_baseurl"]},
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=["Intended Audience :: Science/Research", "Natural Language :: English", "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering"],
    packages=find_packages(include=["icdrat", "icdrat.*"]),
    package_data={"icdrat": ["assets/*/*", "assets/*/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={extra: cfg[f"{extra}_requirements"].split() for extra in ("dev", "llm", "spacy", "cluster")},
    entry_points={"console_scripts": cfg["console_scripts"].split("\n"), "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
