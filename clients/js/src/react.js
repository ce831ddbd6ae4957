import { useEffect, useMemo, useSyncExternalStore } from "react";
import { createUseMarketData } from "./hook.js";

export const useMarketData = createUseMarketData({ useEffect, useMemo, useSyncExternalStore });
