-- turboci policy: the policies of a server, and policy files at hand. Its verbs are in policy/.

return {
  name = "policy",
  summary = "Lists, reloads, checks and replays policies",
  example = "turboci policy check policies/warm_first.lua",
  subverbs = { "list", "reload", "check", "replay" },
}
