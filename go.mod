// Nothing but the examples: it lets `go run examples/grpc_client/main.go` find the Go client in this repository.
module tidegate

go 1.25.0

require (
	github.com/sirupsen/logrus v1.10.2
	google.golang.org/protobuf v1.36.12
	real-time-analytics-platform v0.0.0
)

require (
	github.com/google/uuid v1.6.0 // indirect
	golang.org/x/net v0.57.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.40.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260706201446-f0a921348800 // indirect
	google.golang.org/grpc v1.84.0 // indirect
)

replace real-time-analytics-platform => ./clients/go
