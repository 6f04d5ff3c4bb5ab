// The worker of a page of two models.

import { calls } from "./pair.js";
import { serve } from "./port.js";

serve(/** @type {any} */ (self), calls(navigator.gpu));
