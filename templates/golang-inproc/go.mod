module handler

go 1.26

require (
	github.com/weir-run/weir v0.1.0
	handler/function v0.0.0
)

replace handler/function => ./function
