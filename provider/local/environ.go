package local

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// handedOn are the variables of weir's own environment that a replica gets.
var handedOn = []string{"PATH", "HOME", "LANG", "TZ"}

// drainInterval is how long a replica that was told to stop serves on, where
// the stack does not say: weir has stopped sending by then, so that it is only
// for what was on its way. fwatchdog's own default is made for clusters.
const drainInterval = "250ms"

// environ is the whole environment of a replica: what of weir's is handed on,
// then what the stack says, then what each replica has for itself.
func environ(base []string, stack map[string]string, p ports, temp string) []string {
	env := map[string]string{}
	for _, entry := range base {
		if name, value, ok := strings.Cut(entry, "="); ok && slices.Contains(handedOn, name) {
			env[name] = value
		}
	}
	if pick(stack, "healthcheck_interval") == "" {
		env["healthcheck_interval"] = drainInterval
	}
	for name, value := range stack {
		env[name] = expandPort(value, p.handler)
	}
	delete(env, "WATCHDOG_PORT")
	delete(env, "WATCHDOG_METRICS_PORT")
	delete(env, "WATCHDOG_LISTEN_ADDRESS")
	env["port"] = strconv.Itoa(p.function)
	env["metrics_port"] = strconv.Itoa(p.metrics)
	env["listen_address"] = loopbackAddress
	env["PORT"] = strconv.Itoa(p.handler)
	env["TMPDIR"] = temp
	return list(env)
}

// checked is an environment by which the settings of a stack are checked: its
// own ports, where it names some, so that bad ones are found.
func checked(stack map[string]string) []string {
	env := map[string]string{}
	for _, entry := range environ(nil, stack, sample, "/tmp") {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	for _, name := range []string{"port", "metrics_port", "WATCHDOG_PORT", "WATCHDOG_METRICS_PORT", "listen_address", "WATCHDOG_LISTEN_ADDRESS"} {
		if value := stack[name]; value != "" {
			env[name] = expandPort(value, sample.handler)
		}
	}
	return list(env)
}

func list(env map[string]string) []string {
	all := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		all = append(all, name+"="+env[name])
	}
	return all
}

// expandPort replaces $PORT and ${PORT}. Everything else that begins with a
// dollar is the handler's.
func expandPort(text string, port int) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		switch {
		case strings.HasPrefix(after, "{PORT}"):
			b.WriteString(strconv.Itoa(port))
			text = after[len("{PORT}"):]
		case strings.HasPrefix(after, "PORT") && (len(after) == len("PORT") || !nameByte(after[len("PORT")])):
			b.WriteString(strconv.Itoa(port))
			text = after[len("PORT"):]
		default:
			b.WriteByte('$')
			text = after
		}
	}
}

func nameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// pick is the value of a setting of fwatchdog that has the given names, as
// fwatchdog itself picks it.
func pick(env map[string]string, names ...string) string {
	for _, name := range names {
		if value := env["WATCHDOG_"+strings.ToUpper(name)]; value != "" {
			return value
		}
	}
	for _, name := range names {
		if value := env[name]; value != "" {
			return value
		}
	}
	return ""
}

// merge is a with what b has beside it; b wins.
func merge(a, b map[string]string) map[string]string {
	both := make(map[string]string, len(a)+len(b))
	maps.Copy(both, a)
	maps.Copy(both, b)
	return both
}
