"""Programs played in a browser: ES modules that need no build step, and pages that hold them beside a model."""
