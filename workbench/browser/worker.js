// The page's worker: loading and writing leave the page free.

import { serve } from "./port.js";
import { calls } from "./service.js";

serve(/** @type {any} */ (self), calls(navigator.gpu));
