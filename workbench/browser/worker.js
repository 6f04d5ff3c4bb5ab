// The page's worker: loading and writing leave the page free.

import { serve } from "./service.js";

serve(/** @type {any} */ (self), navigator.gpu);
