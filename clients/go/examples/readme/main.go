// The older README's sample: a client with every default sends one event and says its id.
//
//	cd clients/go && go run ./examples/readme
//
// TIDEGATE_ADDRESS is another server than localhost:50051.
package main

import (
	"context"
	"log"
	"os"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "real-time-analytics-platform/api/proto"
	"real-time-analytics-platform/pkg/client"
)

func main() {
	var config *client.ClientConfig
	if address := os.Getenv("TIDEGATE_ADDRESS"); address != "" {
		config = client.DefaultConfig()
		config.ServerAddress = address
	}
	grpcClient, err := client.NewClient(config, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer grpcClient.Close()

	eventClient := pb.NewEventIngestionServiceClient(grpcClient.GetConnection())
	event := &pb.Event{
		Id:        uuid.New().String(),
		UserId:    "user-123",
		EventType: pb.EventType_EVENT_TYPE_USER,
		Timestamp: timestamppb.Now(),
		Source:    "web-app",
	}
	ctx := grpcClient.WithAPIKey(context.Background())
	resp, err := eventClient.IngestEvent(ctx, &pb.IngestEventRequest{Event: event})
	if err != nil {
		log.Fatalf("Failed: %v", err)
	}
	log.Printf("Event ingested: %s", resp.EventId)
}
