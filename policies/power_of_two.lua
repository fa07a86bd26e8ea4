-- power_of_two: of two runners drawn at random the less loaded. Nearly as even as least_loaded and the same work for
-- any number of runners; and when several servers share runners they do not all run to the same one. No knobs.
--
--     turboci serve --policy-for build=power_of_two

local pick = require "_pick"

return {
  description = "the less loaded of two drawn at random",

  select = function(ctx)
    local runners = pick.others(ctx)
    local count = #runners
    if count == 1 then return runners[1], "the only one" end
    local first = ctx.random(count)
    local second = ctx.random(count - 1)
    if second >= first then second = second + 1 end -- two different ones, every pair as likely
    return pick.least_loaded { runners[first], runners[second] }, "the less loaded of two drawn at random"
  end,
}
