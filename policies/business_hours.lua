-- business_hours: stages begin only while a window of the week is open; until then they wait, and `turboci why` says
-- for what. What has begun goes on after the window closes.
--
-- Knobs, metadata of the plan: `hours` (default "mon-fri 09:00-17:00"; several with commas; "fri 22:00-06:00" ends on
-- Saturday; "always"), `utc_offset` ("+02:00"; default UTC; there is no daylight saving). What cannot be understood
-- counts as the default, and the reason says so.
--
--     turboci.plan { name = "deploy", policy = "business_hours",
--                    metadata = { hours = "mon-thu 10:00-16:00", utc_offset = "+01:00" } }

local calendar = require "_calendar"

local HOURS = "mon-fri 09:00-17:00"

return {
  description = "only while a window of the week is open",

  admit = function(ctx)
    local metadata, note = ctx.plan.metadata, ""
    local hours, offset = metadata.hours or HOURS, 0
    if hours == "always" then return nil end
    local windows = calendar.parse_windows(hours)
    if not windows then
      windows, note = calendar.parse_windows(HOURS), " (the plan's `hours` make no sense: taken as " .. HOURS .. ")"
    end
    if metadata.utc_offset then
      offset = calendar.parse_offset(metadata.utc_offset)
      if not offset then
        offset, note = 0, note .. " (the plan's `utc_offset` makes no sense: taken as UTC)"
      end
    end
    local wait = calendar.until_open(windows, ctx.now, offset)
    if wait == 0 then return nil, "inside business hours" .. note end
    local opens = calendar.format(calendar.time_of_week(ctx.now + wait, offset))
    return { wait = wait }, ("opens %s UTC%s%s"):format(opens, calendar.format_offset(offset), note)
  end,
}
